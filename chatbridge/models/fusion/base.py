"""What every fusion promises: how many slots a media item takes in a row, and how its tokens get there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from chatbridge.common.registry import Registry
from chatbridge.common.types import Batch

if TYPE_CHECKING:
    from chatbridge.models.language import LanguageModel


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Settings all fusions share: none so far."""


class Context:
    """What a fusion's layers inside the language model see of one batch; lives as long as the batch's KV cache."""


class Fusion(nn.Module):
    config: FusionConfig

    def __init__(self, config: FusionConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = width  # D of the language model

    def attach(self, language: LanguageModel) -> None:
        """Put layers of its own among the language model's, once, when the model is built. Names of the language
        model's tensors stay as they are: layers are hooked, and their tensors are the fusion's.

        raises   ValueError when the decoder layers cannot be found
        """

    @abstractmethod
    def num_slots(self, num_tokens: int) -> int:
        """Positions of a row that an item of K bridge tokens takes."""

    @abstractmethod
    def prepare(
        self, embeds: Tensor, media_tokens: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, Context | None]:
        """Rows for the language model, and what its inner layers see.

        embeds        float[B, L, D]              word embeddings of batch.ids
        media_tokens  modality -> float[M, K, D]  bridge tokens
        batch         its media_slots say where items are: modality -> int64[M, slots], flat positions b * L + t
        returns       float[B, L, D], and None when all media are in the rows
        """

    def show(self, context: Context | None) -> None:
        """What the inner layers see from now on, until the next call: the backward pass may repeat a layer."""


FUSIONS: Registry[Fusion] = Registry("fusion", "chatbridge.models.fusion")

__all__ = ["FUSIONS", "Context", "Fusion", "FusionConfig"]
