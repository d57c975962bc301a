"""Bridge tokens stand in the row like words, K of them per item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from chatbridge.models.fusion.base import FUSIONS, Fusion, FusionConfig


@FUSIONS.register("inline")
class Inline(Fusion):
    @dataclass(frozen=True, kw_only=True)
    class Config(FusionConfig):
        pass

    config: Inline.Config

    def num_places(self, num_tokens: int) -> int:
        return num_tokens

    def forward(self, embeds: Tensor, tokens: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> Tensor:
        """Write the tokens into a copy of the rows; shapes alone decide, so nothing waits for the device.

        raises   ValueError when a modality's tokens and places differ in number
        """
        rows = embeds.flatten(0, 1)  # [B * L, D]
        for modality, media in tokens.items():
            place = places[modality]
            if media.shape[:2] != place.shape:
                raise ValueError(
                    f"{modality}: {list(media.shape[:2])} tokens (items, per item) for {list(place.shape)} places; "
                    "was the batch laid out with this model's media_lengths()?"
                )
            rows = rows.index_copy(0, place.flatten(), media.flatten(0, 1).to(rows.dtype))
        return rows.view_as(embeds)
