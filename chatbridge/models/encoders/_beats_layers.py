"""The layers of BEATs: positions by convolution, a gated relative bias, post-norm blocks (Chen et al. 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatbridge.models.attention_by_device import attention


class PositionConv(nn.Module):
    """A grouped convolution over the sequence that adds positions; its kernel is gain * direction (weight norm).

    Written out because the state-dict names of torch's parametrisation changed between versions.
    source   microsoft/unilm: beats/backbone.py (pos_conv)
    """

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.gain = nn.Parameter(torch.empty(1, 1, kernel))
        self.direction = nn.Parameter(torch.empty(width, width // groups, kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.direction, std=math.sqrt(4.0 / (kernel * width)))
        with torch.no_grad():
            self.gain.copy_(self.direction.norm(dim=(0, 1), keepdim=True))

    @property
    def weight(self) -> Tensor:
        """The kernel, float[W, W / groups, taps]."""
        return self.direction * (self.gain / self.direction.norm(dim=(0, 1), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        """float[M, N, W] -> float[M, N, W]"""
        y = F.conv1d(x.transpose(1, 2), self.weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return F.gelu(y[..., : x.shape[1]]).transpose(1, 2)  # [M, N, W]; an even kernel gives one position too many


class RelativeBias(nn.Module):
    """A trainable bias per head and distance, in buckets that widen with the distance (T5; both directions)."""

    def __init__(self, num_buckets: int, max_distance: int, heads: int) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.weight = nn.Parameter(torch.empty(num_buckets, heads))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, length: int) -> Tensor:
        """The bias for `length` tokens, float[heads, N, N]: the second axis is the query, the third the key."""
        distance = torch.arange(1 - length, length, device=self.weight.device)  # key minus query, 2N - 1 of them
        values = self.weight[relative_buckets(distance, self.num_buckets, self.max_distance)].T  # [heads, 2N - 1]
        position = torch.arange(length, device=self.weight.device)
        return values[:, position[None, :] - position[:, None] + length - 1]  # [heads, N, N]


def relative_buckets(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """The bucket of each distance.

    In each direction, half of the buckets are for one distance each and the others widen logarithmically; keys after
    the query have the upper half.
    distance  int64[...], key minus query
    returns   int64[...]
    source    microsoft/unilm: beats/backbone.py (_relative_positions_bucket)
    """
    half = num_buckets // 2
    exact = half // 2
    far = distance.abs()
    growth = torch.log(far.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    wide = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(far < exact, far, wide) + half * (distance > 0)


class BEATsBlock(nn.Module):
    """Attention and MLP, each followed by a norm of the residual sum (post-norm, with a deep-norm factor)."""

    def __init__(
        self, width: int, heads: int, mlp_width: int, *, depth: int, gated: bool, deep_norm: bool, dropout: float
    ) -> None:
        """depth   blocks of the encoder, which the deep-norm factors depend on"""
        super().__init__()
        self.residual_scale = (2.0 * depth) ** 0.25 if deep_norm else 1.0
        self.dropout = dropout
        self.attn = GatedAttention(width, heads, gated)
        self.attn_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self._start((8.0 * depth) ** -0.25 if deep_norm else 1.0)

    def _start(self, gain: float) -> None:
        """The initialisation of deep-norm: weights on the way to the residual sum are scaled by `gain`."""
        for part in (self.attn.q, self.attn.k):
            nn.init.xavier_normal_(part.weight)
        for part in (self.attn.v, self.attn.out, self.fc1, self.fc2):
            nn.init.xavier_normal_(part.weight, gain=gain)
            nn.init.zeros_(part.bias)

    def forward(self, x: Tensor, bias: Tensor, hidden: Tensor | None) -> Tensor:
        """float[M, N, W] -> float[M, N, W]; bias float[heads, N, N], hidden bool[M, N], True = padding"""
        x = self.attn_norm(self.residual_scale * x + self._drop(self.attn(x, bias, hidden)))
        return self.mlp_norm(self.residual_scale * x + self._drop(self.fc2(F.gelu(self.fc1(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class GatedAttention(nn.Module):
    """Self-attention with the shared relative bias, scaled per query and head by a gate computed from the query.

    The released code divides the logits by 32 and multiplies them back after subtracting the maximum, against overflow
    in fp16. This does not change the result and is left to the attention kernel here.
    source   microsoft/unilm: beats/backbone.py (MultiheadAttention, gru_rel_pos)
    """

    def __init__(self, width: int, heads: int, gated: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.gate = nn.Linear(width // heads, 8) if gated else None
        self.gate_scale = nn.Parameter(torch.ones(1, heads, 1, 1)) if gated else None

    def forward(self, x: Tensor, bias: Tensor, hidden: Tensor | None) -> Tensor:
        """float[M, N, W] -> float[M, N, W]; bias float[heads, N, N], hidden bool[M, N], True = padding"""
        q, k, v = (self._split(part(x)) for part in (self.q, self.k, self.v))  # [M, heads, N, W / heads]
        mask = bias.to(q.dtype) * self._gate(q).to(q.dtype)  # [M, heads, N, N], the largest tensor: not in fp32
        if hidden is not None:
            mask = mask.masked_fill(hidden[:, None, None], float("-inf"))
        y = attention(q, k, v, mask)
        return self.out(y.transpose(1, 2).flatten(2))  # [M, N, W]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [M, heads, N, W / heads]

    def _gate(self, q: Tensor) -> Tensor:
        """The factor on the bias, float[M, heads, N, 1]; 1 when the block has no gate."""
        if self.gate is None or self.gate_scale is None:
            return q.new_ones(q.shape[0], 1, 1, 1)
        reset, update = self.gate(q).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)  # each [M, heads, N, 1]
        return reset * (update * self.gate_scale - 1.0) + 2.0  # [M, heads, N, 1]


def token_padding(padding: Tensor, num_tokens: int) -> Tensor:
    """The padding of tokens: a token is padding if all frames it covers are.

    padding  bool[M, frames]; it is cut to a multiple of N and split evenly, as in the released code
    returns  bool[M, N]
    source   microsoft/unilm: beats/BEATs.py (forward_padding_mask)
    """
    whole = padding.shape[1] - padding.shape[1] % num_tokens
    return padding[:, :whole].unflatten(1, (num_tokens, -1)).all(-1)  # [M, N]
