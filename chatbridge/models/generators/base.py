"""The interface of generators: captions in, images out. They are built for inference only, never in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chatbridge.config.registry import Registry


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Settings all generators share: none so far."""


class Generator(ABC):
    """Draws images. It is not part of the model: it has no trainable parameters and is not in checkpoints."""

    config: GeneratorConfig

    def __init__(self, config: Any) -> None:
        self.config = config

    def load(self, device: torch.device, dtype: torch.dtype) -> str:
        """Load the weights, if it has any, onto `device` in `dtype`; returns a line for the log.

        raises   ValueError when they cannot be loaded
        """
        return f"generator: {type(self).__name__}, without weights"

    @abstractmethod
    def render(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Tensor]:
        """One image for each caption.

        seeds    one for each caption; caption and seed determine the image, independent of the others
        returns  uint8[3, H, W] each, of any size
        """


GENERATORS: Registry[Generator] = Registry("generator", "chatbridge.models.generators")

__all__ = ["GENERATORS", "Generator", "GeneratorConfig"]
