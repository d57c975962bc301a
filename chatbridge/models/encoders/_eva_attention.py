"""timm's EVA attention, with the kernel chosen by device and dtype."""

from __future__ import annotations

import torch
from timm.models.eva import Eva, EvaAttention
from torch import Tensor, nn
from torch.nn import functional as F

from chatbridge.models.attention_by_device import attention


class EvaAttentionByDevice(EvaAttention):
    """Without rotary positions, masks, norms of queries and keys, and gates: the released EVA-ViT has none of them."""

    def forward(self, x: Tensor, rope: object = None, attn_mask: object = None, is_causal: bool = False) -> Tensor:
        """float[M, N, W] -> float[M, N, W]"""
        assert rope is None and attn_mask is None and not is_causal
        qkv = self._qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [M, N, 3, heads, W / heads]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [M, heads, N, W / heads]
        y = attention(q, k, v, dropout=self.attn_drop.p if self.training else 0.0)
        return self.proj_drop(self.proj(y.transpose(1, 2).flatten(2)))

    def _qkv(self, x: Tensor) -> Tensor:
        """float[M, N, W] -> float[M, N, 3 W]; an adapter in place of the layer is called, not read"""
        layer, biases = self.qkv, (self.q_bias, self.k_bias, self.v_bias)
        assert layer is not None
        bias = torch.cat([one for one in biases if one is not None])
        return F.linear(x, layer.weight, bias) if type(layer) is nn.Linear else layer(x) + bias


def choose_attention_by_device(vit: Eva) -> None:
    """Use it in every block. The state dict stays as it is."""
    for module in vit.modules():
        if type(module) is EvaAttention:
            module.__class__ = EvaAttentionByDevice
