"""The blocks of ImageBind's trunks: pre-norm attention and MLP, with an optional learned extra key and value."""

from __future__ import annotations

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from chatbridge.models.attention_by_device import attention

EPS = 1e-6  # of the norms in blocks and heads, and of the norm before the vision trunk
STD = 0.02  # of fresh weights


class SelfAttention(nn.Module):
    """Multi-head attention in the layout of torch's MultiheadAttention: queries, keys and values in one product.

    extra   add one learned key and value after those of the tokens (`add_bias_kv`)
    causal  a token reads only those before it and itself
    """

    def __init__(self, width: int, heads: int, extra: bool, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.extra_key = nn.Parameter(torch.empty(1, 1, width)) if extra else None
        self.extra_value = nn.Parameter(torch.empty(1, 1, width)) if extra else None
        for parameter in (self.extra_key, self.extra_value):
            if parameter is not None:
                nn.init.normal_(parameter, std=STD)

    def forward(self, x: Tensor) -> Tensor:
        """float[M, N, W] -> float[M, N, W]"""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # each [M, N, W]
        if self.extra_key is not None and self.extra_value is not None:
            k, v = (torch.cat([one, more.to(one.dtype).expand(len(x), -1, -1)], dim=1)
                    for one, more in ((k, self.extra_key), (v, self.extra_value)))  # fmt: skip
        y = attention(self._split(q), self._split(k), self._split(v), is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))  # [M, N, W]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [M, heads, N, W / heads]


class ImageBindBlock(nn.Module):
    """Attention and MLP (exact GELU, four times as wide), each after a norm and added to its input."""

    def __init__(self, width: int, heads: int, *, extra: bool, causal: bool, drop_path: float) -> None:
        """drop_path   probability that an item skips attention, and the MLP, in training"""
        super().__init__()
        self.attn_norm = nn.LayerNorm(width, eps=EPS)
        self.attn = SelfAttention(width, heads, extra, causal)
        self.mlp_norm = nn.LayerNorm(width, eps=EPS)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """float[M, N, W] -> float[M, N, W]"""
        x = x + self.drop_path(self.attn(self.attn_norm(x)))
        return x + self.drop_path(self.fc2(F.gelu(self.fc1(self.mlp_norm(x)))))


def start_linear_layers(module: nn.Module) -> None:
    """Give the linear layers of a module small random weights and zero biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
