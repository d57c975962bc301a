"""Sizes of ImageBind's six trunks. The defaults are ImageBind-Huge; every size may be set, also to a tiny one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from chatbridge.common.errors import Problem
from chatbridge.config.constraints import Range

FRAMES = 2  # of a clip of video, which one patch covers; an image counts as a clip of equal frames
Count = Annotated[int, Range(low=1)]
Rate = Annotated[float, Range(low=0.0, below=1.0)]


@dataclass(frozen=True, kw_only=True)
class TrunkSizes:
    """Sizes that all trunks have; each trunk has defaults of its own."""

    width: Count  # channels
    depth: Count  # blocks
    heads: Count
    drop_path: Rate = 0.0  # probability that the last block is skipped in training; earlier ones less, linearly

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along each axis of the input; their product is the number of tokens without the class token."""
        raise NotImplementedError

    def problems(self) -> Iterator[Problem]:
        if self.width % self.heads:
            yield Problem("heads", f"width {self.width} does not divide into {self.heads} heads")


@dataclass(frozen=True, kw_only=True)
class SquareSizes(TrunkSizes):
    """Square images, cut into patches that do not overlap."""

    image_size: Count = 224  # pixels; the position embeddings of a file are resized to it
    patch_size: Count = 16  # pixels

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.image_size // self.patch_size,) * 2

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from _indivisible("image_size", self.image_size, self.patch_size)


@dataclass(frozen=True, kw_only=True)
class VisionSizes(SquareSizes):
    """Images, and clips of FRAMES frames."""

    width: Count = 1280  # channels
    depth: Count = 32  # blocks
    heads: Count = 16
    patch_size: Count = 14  # pixels


@dataclass(frozen=True, kw_only=True)
class AudioSizes(TrunkSizes):
    """Log-mel clips; the patches overlap."""

    width: Count = 768  # channels
    depth: Count = 12  # blocks
    heads: Count = 12
    drop_path: Rate = 0.1  # probability that the last block is skipped in training; earlier ones less, linearly
    mel_bins: Count = 128
    frames: Count = 204  # of 10 ms, of one clip of 2 s
    patch_size: Count = 16  # frames and mel bins per patch
    stride: Count = 10  # frames and mel bins from one patch to the next

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple((size - self.patch_size) // self.stride + 1 for size in (self.mel_bins, self.frames))

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        for name in ("mel_bins", "frames"):
            if getattr(self, name) < self.patch_size:
                yield Problem(name, f"{getattr(self, name)} is less than one patch of {self.patch_size}")


@dataclass(frozen=True, kw_only=True)
class DepthSizes(SquareSizes):
    """Depth maps (one channel)."""

    width: Count = 384  # channels
    depth: Count = 12  # blocks
    heads: Count = 8


@dataclass(frozen=True, kw_only=True)
class ThermalSizes(SquareSizes):
    """Thermal images (one channel)."""

    width: Count = 768  # channels
    depth: Count = 12  # blocks
    heads: Count = 12


@dataclass(frozen=True, kw_only=True)
class ImuSizes(TrunkSizes):
    """Readings of an inertial measurement unit over time."""

    width: Count = 512  # channels
    depth: Count = 6  # blocks
    heads: Count = 8
    drop_path: Rate = 0.7  # probability that the last block is skipped in training; earlier ones less, linearly
    head_dropout: Rate = 0.5  # before the last layer, in training
    channels: Count = 6  # three axes of the accelerometer, three of the gyroscope
    length: Count = 2000  # readings
    window: Count = 8  # readings per token

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.length // self.window,)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from _indivisible("length", self.length, self.window, "window")


@dataclass(frozen=True, kw_only=True)
class TextSizes(TrunkSizes):
    """Token ids of CLIP's tokenizer."""

    width: Count = 1024  # channels
    depth: Count = 24  # blocks
    heads: Count = 16
    context_length: Count = 77  # tokens, start and end included
    vocabulary: Count = 49408  # tokens; the end token has the largest id

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.context_length,)


def _indivisible(name: str, size: int, part: int, part_name: str = "patch_size") -> Iterator[Problem]:
    if size % part:
        yield Problem(name, f"{size} is not a multiple of {part_name} {part}")
