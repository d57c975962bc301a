"""What a position of a cached conversation holds: a token id, or a position of a media item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class MediaPosition:
    """One position of a media item: equal to the position of the same offset of an item with equal values.

    item    float[...]  the encoder's input
    offset  among the positions of the item
    """

    modality: str
    item: Tensor
    offset: int

    def is_same(self, other: Any) -> bool:
        """Whether two positions are equal; the values of an item are compared once, at its first position."""
        if not isinstance(other, MediaPosition) or (self.modality, self.offset) != (other.modality, other.offset):
            return False
        return self.offset > 0 or self.item is other.item or torch.equal(self.item, other.item)


Position = int | MediaPosition

__all__ = ["MediaPosition", "Position"]
