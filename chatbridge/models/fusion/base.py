"""What every fusion promises: how many places a media item takes in a row, and how its tokens get there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from chatbridge.common.registry import Registry


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Settings all fusions share: none so far."""


class Fusion(nn.Module):
    config: FusionConfig

    def __init__(self, config: FusionConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = width  # D of the language model

    @abstractmethod
    def num_places(self, num_tokens: int) -> int:
        """Positions of a row that an item of K bridge tokens takes."""

    @abstractmethod
    def forward(self, embeds: Tensor, tokens: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> Tensor:
        """
        embeds   float[B, L, D]                rows of word embeddings
        tokens   modality -> float[M, K, D]    bridge tokens
        places   modality -> int64[M, places]  flat positions b * L + t
        returns  float[B, L, D]                rows for the language model
        """


FUSIONS: Registry[Fusion] = Registry("fusion", "chatbridge.models.fusion")

__all__ = ["FUSIONS", "Fusion", "FusionConfig"]
