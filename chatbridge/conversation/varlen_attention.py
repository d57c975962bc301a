"""Attention inside each packed conversation alone, registered with transformers under the name `varlen`.

Packed rows are flattened; `borders` give the first position of each conversation, and no mask exists: on a GPU in bf16
or fp16 the kernel of `torch.nn.attention.varlen` (torch 2.10 or later), elsewhere scaled_dot_product_attention
conversation by conversation. Without borders (a batch without segments, a KV cache) it is transformers' sdpa.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NAME = "varlen"
KERNEL = "torch.nn.attention.varlen"
HALF = (torch.bfloat16, torch.float16)


def register() -> None:
    """Make the name known to transformers; a second call changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, varlen_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def has_kernel() -> bool:
    """Whether this torch has the kernel."""
    try:
        return find_spec(KERNEL) is not None
    except ModuleNotFoundError:
        return False


def varlen_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention of a layer of transformers.

    query            float[B, H, L, C], C channels of a head
    key, value       float[B, H or fewer, L, C]
    attention_mask   not read when there are borders
    sliding_window   positions that a query sees, its own included
    cu_seq_lens_q    int32[conversations + 1], borders in the flattened batch; None: no conversations are packed
    returns          float[B, L, H, C]
    raises           ValueError for dropout or capped scores, which the kernel does not have
    """
    if cu_seq_lens_q is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        given = {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window, **kwargs}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
    if dropout or kwargs.get("softcap") is not None:
        what = "dropout of attention" if dropout else "capped attention scores"
        raise ValueError(f"varlen attention has no {what}; set model.language.attention to sdpa or eager")
    groups = query.shape[1] // key.shape[1]
    queries, keys, values = (one.transpose(1, 2).flatten(0, 1) for one in (query, key, value))  # [B * L, H, C]
    if groups > 1:
        keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.is_cuda and query.dtype in HALF:
        longest = max_length_q or int(cu_seq_lens_q.diff().max())
        found = _by_kernel(queries, keys, values, cu_seq_lens_q, longest, scale, sliding_window)
    else:
        found = by_conversation(queries, keys, values, cu_seq_lens_q.tolist(), scale, sliding_window)
    return found.unflatten(0, (query.shape[0], query.shape[2])), None


def by_conversation(
    query: Tensor, key: Tensor, value: Tensor, borders: list[int], scale: float, window: int | None = None
) -> Tensor:
    """Causal attention inside each conversation: float[positions, H, C] of the flattened batch."""
    found = []
    for start, stop in zip(borders, borders[1:], strict=False):
        one, other, third = (part[start:stop].transpose(0, 1)[None] for part in (query, key, value))  # [1, H, n, C]
        mask = _band(stop - start, window, query.device) if window is not None and window < stop - start else None
        seen = F.scaled_dot_product_attention(one, other, third, mask, is_causal=mask is None, scale=scale)
        found.append(seen[0].transpose(0, 1))
    return torch.cat(found)


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """bool[n, n]: a query sees itself and the `window` - 1 positions before it."""
    at = torch.arange(length, device=device)
    distance = at[:, None] - at[None, :]
    return (distance >= 0) & (distance < window)


def _by_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    borders: Tensor,
    longest: int,
    scale: float,
    window: int | None,
) -> Tensor:
    """Never run where this was written, which has no GPU; `kernel_arguments` is tested."""
    varlen_attn: Any = import_module(KERNEL).varlen_attn

    arguments, factor = kernel_arguments(varlen_attn, query.shape[-1], scale, window)
    if factor != 1.0:
        query = query * factor
    return varlen_attn(query, key, value, borders, borders, longest, longest, **arguments)


def kernel_arguments(
    kernel: Callable[..., Any], width: int, scale: float, window: int | None
) -> tuple[Mapping[str, Any], float]:
    """Keyword arguments of causal attention, and the factor of the queries where the kernel takes no scale.

    torch 2.10 takes `is_causal`, and scales by 1 / sqrt(width) itself; later versions take `window_size` and `scale`.
    raises   ValueError for a window that the kernel cannot express
    """
    known = signature(kernel).parameters
    if "window_size" in known:
        arguments: dict[str, Any] = {"window_size": (-1 if window is None else window - 1, 0)}
    elif window is None:
        arguments = {"is_causal": True}
    else:
        raise ValueError(f"{KERNEL} of torch {torch.__version__} has no window; update torch, or use sdpa")
    if "scale" in known:
        return {**arguments, "scale": scale}, 1.0
    return arguments, scale * math.sqrt(width)
