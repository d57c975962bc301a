"""Features of one piece as a row of bytes: fp32 or bf16 values, or int8 values with a scale per token.

A row is [scales, float32[N], of int8 alone | values | mask, uint8[N]], padded to 64 bytes so that every part is aligned
in the memory map. int8: value = round(x / scale) with scale = max |x| of the token / 127, so the error of a value is at
most half a scale, 0.4 % of the largest value of its token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chatbridge.common.types import Features
from chatbridge.datasets.feature_cache.config import Stored

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
ALIGNED = 64  # bytes
NO_MASK = 255  # in place of a mask's 0 or 1: the encoder gave none


@dataclass(frozen=True)
class RowLayout:
    """Where the parts of a row are.

    tokens, width   N and W
    """

    tokens: int
    width: int
    values: Stored

    @property
    def value_bytes(self) -> int:
        return self.tokens * self.width * DTYPES[self.values].itemsize

    @property
    def scale_bytes(self) -> int:
        return 4 * self.tokens if self.values == "int8" else 0

    @property
    def row_bytes(self) -> int:
        """Bytes of a row with its padding."""
        return -(-(self.value_bytes + self.scale_bytes + self.tokens) // ALIGNED) * ALIGNED

    def rows(self, features: Features) -> Tensor:
        """Rows of M pieces.

        features  x float[M, N, W], mask bool[M, N] or None
        returns   uint8[M, row_bytes]
        raises    ValueError for values that are not finite or of another shape
        """
        x = features.x.detach().cpu()
        if tuple(x.shape[1:]) != (self.tokens, self.width):
            raise ValueError(f"features of shape {list(x.shape)}, expected [M, {self.tokens}, {self.width}]")
        if not torch.isfinite(x).all():
            raise ValueError("features hold nan or inf; run the encoder in fp32 (run.precision)")
        parts = [_bytes(one) for one in self._stored(x)]
        mask = torch.full(x.shape[:2], NO_MASK, dtype=torch.uint8)
        parts.append(mask if features.mask is None else features.mask.cpu().to(torch.uint8))
        flat = torch.cat(parts, 1)  # [M, value_bytes + scale_bytes + N]
        return torch.nn.functional.pad(flat, (0, self.row_bytes - flat.shape[1]))

    def features(self, rows: Tensor) -> Features:
        """The features of T rows without a copy: one item.

        rows     uint8[T, row_bytes]
        returns  x [T, N, W] in the stored dtype, scale float[T, N, 1] of int8 values, mask bool[T, N] or None
        """
        start, end = self.scale_bytes, self.scale_bytes + self.value_bytes
        scale = rows[:, :start].view(torch.float32)[..., None] if start else None
        x = rows[:, start:end].view(DTYPES[self.values]).unflatten(1, (self.tokens, self.width))
        mask = rows[:, end : end + self.tokens]
        return Features(x, None if int(mask[0, 0]) == NO_MASK else mask.bool(), len(rows), scale)

    def _stored(self, x: Tensor) -> list[Tensor]:
        """float[M, N, W] -> what is stored of it: scales float32[M, N, 1] of int8, and values [M, N, W]"""
        if self.values != "int8":
            return [x.to(DTYPES[self.values])]
        x = x.float()
        scale = x.abs().amax(-1, keepdim=True) / 127  # [M, N, 1]
        return [scale, (x / scale.clamp_min(torch.finfo(torch.float32).tiny)).round().to(torch.int8)]


@dataclass
class StorageError:
    """How far stored values are from what the encoder gave, over many pieces."""

    squared: float = 0.0  # sum of (stored - x) ** 2
    total: float = 0.0  # sum of x ** 2
    largest: float = 0.0  # |stored - x| over the largest |x| of its token

    def add(self, x: Tensor, stored: Features) -> None:
        """x float[M, N, W] of the encoder, and what is read back of it."""
        x, back = x.detach().cpu().float(), stored.floats().float()
        difference = back - x
        self.squared += float(difference.double().square().sum())
        self.total += float(x.double().square().sum())
        peak = x.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        self.largest = max(self.largest, float((difference.abs() / peak).max()))

    @property
    def relative(self) -> float:
        """Root of the mean squared error over that of the values."""
        return (self.squared / self.total) ** 0.5 if self.total else 0.0


def _bytes(x: Tensor) -> Tensor:
    """[M, ...] -> uint8[M, bytes]"""
    return x.contiguous().flatten(1).view(torch.uint8)
