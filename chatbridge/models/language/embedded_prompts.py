"""Prompts as embeddings, padded on the left, from which answers are generated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class EmbeddedPrompts:
    """R prompts as embeddings.

    embeds   float[R, L, D], padded on the left; with a cache, the continuation of its sequences
    mask     bool[R, L], False = padding; None without padding
    context  media for the fusion's layers inside the language model (Fusion.prepare)
    show     sets the context of those layers (Fusion.show); None for a model without a fusion
    """

    embeds: Tensor
    mask: Tensor | None = None
    context: Any = None
    show: Callable[[Any], None] | None = None

    @property
    def is_ragged(self) -> bool:
        """Whether any prompt has padding."""
        return self.mask is not None and not bool(self.mask.all())

    def alone(self, row: int) -> EmbeddedPrompts:
        """One of the prompts, without its padding."""
        length = self.embeds.shape[1] if self.mask is None else int(self.mask[row].sum())
        context = None if self.context is None else self.context.select(torch.tensor([row]))
        return replace(self, embeds=self.embeds[row : row + 1, -length:], mask=None, context=context)


def left_padded(rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Move the padding of sequences from the right to the left, so that new tokens continue them.

    rows     float[B, L, D], padded on the right
    lengths  int64[B]
    returns  float[B, L, D] with zeros on the left, and bool[B, L], False = padding
    """
    length = rows.shape[1]
    source = torch.arange(length, device=rows.device)[None] - (length - lengths[:, None])  # [B, L]
    mask = source >= 0
    moved = rows.gather(1, source.clamp(min=0)[..., None].expand_as(rows))  # [B, L, D]
    return moved * mask[..., None], mask


__all__ = ["EmbeddedPrompts", "left_padded"]
