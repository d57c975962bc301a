"""An image in one color, which caption and seed decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from chatbridge.models.generators import GENERATORS, Generator, GeneratorConfig


@GENERATORS.register("plain_color")
class PlainColor(Generator):
    @dataclass(frozen=True, kw_only=True)
    class Config(GeneratorConfig):
        side: int = 24  # pixels

    config: Config

    def render(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Tensor]:
        return [self._image(caption, seed) for caption, seed in zip(captions, seeds, strict=True)]

    def _image(self, caption: str, seed: int) -> Tensor:
        color = list(crc32(f"{seed} {caption}".encode()).to_bytes(4, "big")[:3])
        return torch.tensor(color, dtype=torch.uint8)[:, None, None].expand(-1, self.config.side, self.config.side)
