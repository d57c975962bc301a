"""Position embeddings of a vision transformer for images of another size than those of the released weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def resized_positions(table: Tensor, grid: int) -> Tensor:
    """Resize position embeddings to a different number of patches, as the released loader does.

    table    float[1, 1 + G*G, W], the class token first
    returns  float[1, 1 + grid^2, W]
    raises   ValueError if the patch positions do not form a square
    source   salesforce/LAVIS: lavis/models/eva_vit.py (interpolate_pos_embed): bicubic, corners not aligned, no
             antialias, class position kept
    """
    first, patches = table[:, :1], table[:, 1:]  # [1, 1, W], [1, G*G, W]
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise ValueError(f"position table has {patches.shape[1]} patch positions, which is not a square grid")
    square = patches.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1, W, G, G]
    square = nn.functional.interpolate(square, (grid, grid), mode="bicubic", align_corners=False)  # [1, W, grid, grid]
    return torch.cat([first, square.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)  # [1, 1 + grid^2, W]


__all__ = ["resized_positions"]
