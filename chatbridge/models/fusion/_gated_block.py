"""A gated block: text reads media, then a feed-forward part; both are added in the measure of a trained gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chatbridge.models.encoders.base import FloatLayerNorm
from chatbridge.models.fusion._seen_media import SeenMedia
from chatbridge.models.fusion.base import Reader
from chatbridge.models.reading_layers import FeedForward, attend


class MediaAttention(nn.Module):
    """What text positions read from media tokens; zero where they read none."""

    def __init__(self, width: int, media_width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.norm = FloatLayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(media_width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, hidden: Tensor, tokens: Tensor, reads: Tensor) -> Tensor:
        """hidden float[B, L, D], tokens float[B, N, W], reads bool[B, L, N] -> float[B, L, D], without a residual"""
        has_any = reads.any(-1, keepdim=True)  # [B, L, 1]; the others need something for their softmax
        query, key_value = self.to_q(self.norm(hidden)), self.to_kv(tokens)
        return self.to_out(attend(query, key_value, self.heads, reads | ~has_any) * has_any)


class GatedBlock(nn.Module):
    """float[B, L, D] -> float[B, L, D]; closed gates (0, their start) change nothing."""

    def __init__(self, width: int, media_width: int, heads: int, head_width: int, feed_forward_mult: int) -> None:
        super().__init__()
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_forward_gate = nn.Parameter(torch.zeros(1))
        self.attention = MediaAttention(width, media_width, heads, head_width)
        self.feed_forward = FeedForward(width, feed_forward_mult)

    def reader(self) -> Reader:
        """Its parts, for counting operations."""
        one, two = self.attention, self.feed_forward
        output = [one.to_out, two.norm, two.up, two.down]
        return Reader(self, [one.norm, one.to_q], [one.to_kv], output, one.to_q.out_features)

    def forward(self, hidden: Tensor, seen: SeenMedia | None) -> Tensor:
        """float[B, L, D] -> float[B, L, D]; without media the same, with a gradient of zero for every tensor"""
        if seen is None:
            return self._untouched(hidden)
        stored = self.attention.to_q.weight.dtype
        x = hidden if torch.is_autocast_enabled(hidden.device.type) else hidden.to(stored)
        x = x + _gated(self.attention_gate, self.attention(x, seen.tokens.to(x.dtype), seen.reads), x)
        x = x + _gated(self.feed_forward_gate, self.feed_forward(x), x)
        x = x.to(hidden.dtype)
        return x if (changes := seen.changes) is None else torch.where(changes, x, hidden)

    def _untouched(self, hidden: Tensor) -> Tensor:
        """The same values; where gradients are taken, ranks that share the block expect one of every tensor."""
        if not torch.is_grad_enabled():
            return hidden
        nothing = sum((p.flatten()[:1].sum() * 0 for p in self.parameters() if p.requires_grad), hidden.new_zeros(()))
        return hidden + nothing.to(hidden.dtype)


def _gated(gate: Tensor, change: Tensor, x: Tensor) -> Tensor:
    return (gate.float().tanh() * change).to(x.dtype)  # in fp32, also where its rows were gathered in bf16


__all__ = ["GatedBlock", "MediaAttention"]
