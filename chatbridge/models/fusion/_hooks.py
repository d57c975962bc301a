"""Layers of a fusion among those of a language model, without touching the language model's tensors or their names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn


def before(layer: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Let `change` replace the hidden states, float[B, L, D], that reach a decoder layer.

    A bound method, or `functools.partial` of one, follows its module when a whole model is copied; a closure does not.
    """
    layer.register_forward_pre_hook(partial(_changed, change), with_kwargs=True)


def _changed(
    change: Callable[[Tensor], Tensor], layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}
