"""What every generator promises: captions in, images out. It is built where answers are given, never in a training."""

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
    """Not a part of the model: nothing of it trains, and no checkpoint holds a tensor of it."""

    config: GeneratorConfig

    def __init__(self, config: Any) -> None:
        self.config = config

    def load(self, device: torch.device, dtype: torch.dtype) -> str:
        """Read weights onto `device` in `dtype`, where it has some; returns a line for people. raises ValueError"""
        return f"generator: {type(self).__name__}, without weights"

    @abstractmethod
    def render(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Tensor]:
        """Draw one image for each caption.

        seeds    one for each: the same caption and seed give the same image, whatever is drawn beside it
        returns  uint8[3, H, W] each, of any size
        """


GENERATORS: Registry[Generator] = Registry("generator", "chatbridge.models.generators")

__all__ = ["GENERATORS", "Generator", "GeneratorConfig"]
