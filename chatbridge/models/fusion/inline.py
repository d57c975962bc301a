"""Bridge tokens replace the embeddings of K placeholders per item in the token sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from chatbridge.common.types import Batch
from chatbridge.models.fusion.base import FUSIONS, Fusion, FusionConfig


@FUSIONS.register("inline")
class Inline(Fusion):
    @dataclass(frozen=True, kw_only=True)
    class Config(FusionConfig):
        pass

    config: Inline.Config

    def num_slots(self, num_tokens: int) -> int:
        return num_tokens

    def prepare(self, embeds: Tensor, media_tokens: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, None]:
        """Write the tokens into a copy of the embeddings.

        embeds        float[B, L, D]
        media_tokens  modality -> float[M, K, D]
        batch         its media_slots: modality -> int64[M, K], flat positions b * L + t
        returns       float[B, L, D], and no context
        """
        flat = embeds.flatten(0, 1)  # [B * L, D]
        for modality, media in media_tokens.items():
            slots = batch.media_slots[modality].flatten()  # [M * K]
            flat = flat.index_copy(0, slots, media.flatten(0, 1).to(flat.dtype))
        return flat.view_as(embeds), None
