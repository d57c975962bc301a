"""The last layer's feed-forward part at the supervised points alone: no other position of its output is read.

Attention of a layer reads all positions of the layer before; nothing reads those of the last one but the head. So its
feed-forward part, two thirds of a Llama layer's products, is skipped where no point is, forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from chatbridge.models.compilation import Compiled
from chatbridge.models.language._hf_modules import decoder_layers
from chatbridge.models.memory import Recomputed

LEAST_SAVED = 100_000_000  # multiply-adds; below, selecting positions costs as much as it saves


def skippable(lm: Any, num_positions: int, num_points: int) -> nn.Module | None:
    """The feed-forward module of the last layer, where skipping positions is possible and pays; else None.

    lm   a model of transformers
    Layers of a fusion, compiled layers, and those that are computed again in the backward pass stay as they are.
    """
    try:
        layer: Any = decoder_layers(lm)[-1]
    except ValueError:
        return None
    module = getattr(layer, "mlp", None)
    if not isinstance(module, nn.Module) or not _is_position_wise(type(module)):
        return None
    if isinstance(layer.forward, (Recomputed, Compiled)) or layer._compiled_call_impl is not None:
        return None
    size = sum(parameter.numel() for parameter in module.parameters())
    return module if size * (num_positions - num_points) >= LEAST_SAVED else None


@cache
def _is_position_wise(kind: Any) -> bool:
    """Whether it is a plain feed-forward class: Bloom's and MPT's also take the residual stream, experts are others."""
    return kind.__name__.endswith("MLP") and len(signature(kind.forward).parameters) == 2  # self and the positions


@contextmanager
def only_at(module: nn.Module, points: Tensor) -> Iterator[None]:
    """Compute a module of positions float[B, L, D] -> float[B, L, D] at `points`, int64[S], alone; others become 0.

    A position may occur twice: what follows a side text and the side text are predicted from the same one.
    """

    shape = torch.Size()

    def select(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal shape
        shape = args[0].shape
        return (args[0].flatten(0, 1)[points][None], *args[1:])  # [1, S, D]

    def spread(module: nn.Module, args: tuple[Any, ...], result: Tensor) -> Tensor:
        whole = result.new_zeros(shape[:-1].numel(), result.shape[-1])  # [B * L, D]
        return whole.index_copy(0, points, _once(result[0], points, len(whole))).view(*shape[:-1], -1)

    handles = [module.register_forward_pre_hook(select), module.register_forward_hook(spread)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _once(rows: Tensor, points: Tensor, num_positions: int) -> Tensor:
    """The same float[S, D], with a gradient in one row of each position: index_copy gives it to all of them."""
    numbers = torch.arange(len(points), device=points.device)
    owner = points.new_zeros(num_positions).scatter(0, points, numbers)
    return torch.where((owner[points] == numbers)[:, None], rows, rows.detach())
