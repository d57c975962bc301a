"""Layers of Flamingo's family: attention of one sequence to another, and the feed-forward part after it.

A resampler reads an item with them, and a language model the tokens of its media. No linear layer has a bias.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from chatbridge.models.encoders.base import FloatLayerNorm


def attend(query: Tensor, key_value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """What each query reads, all heads side by side; scores are divided by the root of a head's width.

    query      float[B, L, H], H = heads * head width
    key_value  float[B, N, 2 * H], keys before values
    mask       bool[B, L, N], True where a query reads; every query must read something. None: it reads everything
    returns    float[B, L, H]
    """
    key, value = key_value.chunk(2, dim=-1)
    split = [one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in (query, key, value)]  # [B, heads, L or N, h]
    found = F.scaled_dot_product_attention(*split, attn_mask=None if mask is None else mask[:, None])
    return found.transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """float[..., D] -> float[..., D]: a norm and two linear layers with an exact GELU between them, without a residual.

    mult   hidden channels in multiples of D
    """

    def __init__(self, width: int, mult: int) -> None:
        super().__init__()
        self.norm = FloatLayerNorm(width)
        self.up = nn.Linear(width, mult * width, bias=False)
        self.down = nn.Linear(mult * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """float[..., D] -> float[..., D]"""
        return self.down(F.gelu(self.up(self.norm(x))))


__all__ = ["FeedForward", "attend"]
