"""Attention chosen by device and dtype, where no setting names an implementation.

torch's fused attention is the fastest on a GPU, and on a CPU in fp32. On a CPU in bf16 two products with a softmax
between them are: for a Llama layer of 8 x 56 positions and 8 heads of 64 channels, forward and backward take 2 ms
instead of 9; for a vision transformer's 257 tokens, forward takes 4 ms instead of 8 (one thread, torch 2.11).

Models of transformers find it under the name SDPA_OR_MATMUL among their implementations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SDPA_OR_MATMUL = "sdpa_or_matmul"
MOST_SCORE_BYTES = 256 << 20  # of the scores of one call; above, fused attention, which never holds all of them


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, is_causal: bool = False, dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Softmax attention, as torch's scaled_dot_product_attention.

    q        float[M, heads, N, C]
    k, v     float[M, heads, N', C]
    mask     bool[..., N, N'], True = seen, or float[..., N, N'] to add to the scores
    dropout  probability, also outside training
    returns  float[M, heads, N, C]
    """
    if not prefers_matmul(q, k):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, scale=scale
        )
    with torch.autocast(
        q.device.type, enabled=False
    ):  # it would compute the softmax in fp32; inside, torch does anyway
        scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)  # [M, heads, N, N']
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if mask is not None and mask.dtype == torch.bool:
            scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)  # not -inf: of nothing seen, a softmax is nan
        elif mask is not None:
            scores += mask
        return F.dropout(scores.softmax(-1), dropout) @ v


def prefers_matmul(q: Tensor, k: Tensor) -> bool:
    """Whether two products are faster: in half precision on a CPU. A single new token of a decode loop stays fused.

    q float[M, heads, N, C], k float[M, heads, N', C]
    """
    if q.device.type != "cpu" or q.dtype not in (torch.bfloat16, torch.float16) or q.shape[-2] == 1:
        return False
    return q.shape[:-1].numel() * k.shape[-2] * q.element_size() <= MOST_SCORE_BYTES


def choose_by_device(model: nn.Module) -> None:
    """Let the models of transformers inside a module choose where they would use torch's fused attention.

    It concerns models whose attention is transformers' interface; others keep what they have.
    """
    from transformers import PreTrainedModel

    for part in model.modules():
        if isinstance(part, PreTrainedModel) and getattr(part, "_supports_attention_backend", False):
            config: Any = part.config
            if config._attn_implementation == "sdpa":
                _register()
                config._attn_implementation = SDPA_OR_MATMUL


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(SDPA_OR_MATMUL, _of_transformers)
    AttentionMaskInterface.register(SDPA_OR_MATMUL, sdpa_mask)


def _of_transformers(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0,
    scaling: float | None = None, is_causal: bool | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """The signature of transformers' attention functions; float[M, heads, N, C] -> float[M, N, heads, C]"""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    others = [name for name in ("position_bias", "cache", "softcap") if kwargs.get(name) is not None]
    if others or not prefers_matmul(query, key):
        given = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **kwargs}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
    groups = getattr(module, "num_key_value_groups", 1)
    if groups > 1:
        key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    causal = bool(causal) and attention_mask is None
    if causal and key.shape[-2] > query.shape[-2]:  # an empty static cache
        key, value = (one[..., : query.shape[-2], :] for one in (key, value))
    y = attention(query, key, value, attention_mask, is_causal=causal, dropout=dropout, scale=scaling)
    return y.transpose(1, 2).contiguous(), None
