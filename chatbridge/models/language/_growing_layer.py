"""A layer of transformers' cache with room to grow: a new token does not copy the keys and values before it."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

LEAST_ROOM = 64  # columns that are allocated beyond the needed ones; more where there are many


@cache
def growing_layer() -> type[Any]:
    """The class, a DynamicLayer of transformers, which is imported when a cache is first needed."""
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):
        """`keys` and `values`, float[B, H, length, C], are the beginnings of larger tensors where they can be.

        Others may replace them by any tensors; the next tokens then get a new larger one. The larger tensors belong to
        one layer alone, see `shared_layer`.
        """

        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            self.whole: tuple[Tensor, Tensor] | None = None

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            if torch.is_grad_enabled() and key_states.requires_grad:
                self.whole = None  # a graph cannot follow values that are written over
                return super().update(key_states, value_states, *args, **kwargs)
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.keys, self.values = key_states, value_states  # most prompts are read at once
                return key_states, value_states
            keys, values = cast("tuple[Tensor, Tensor]", (self.keys, self.values))
            length = keys.shape[-2]
            end = length + key_states.shape[-2]
            if self.whole is None or not _has_room(self.whole, (keys, values), end):
                self.whole = None  # free it first
                self.whole = _larger(keys, end), _larger(values, end)
            for whole, new in zip(self.whole, (key_states, value_states), strict=True):
                whole[..., length:end, :] = new
            self.keys, self.values = (whole[..., :end, :] for whole in self.whole)
            return self.keys, self.values

        def replace(self, keys: Tensor, values: Tensor) -> None:
            """Hold other tensors, float[B, H, n, C]."""
            self.keys, self.values, self.whole = keys, values, None

    return GrowingLayer


def _has_room(whole: tuple[Tensor, Tensor], parts: tuple[Tensor, Tensor], end: int) -> bool:
    """Whether both parts are still the beginnings of these tensors, which have `end` columns."""
    return all(
        one.data_ptr() == part.data_ptr() and one.stride() == part.stride() and one.shape[:2] == part.shape[:2]
        and one.shape[-2] >= end
        for one, part in zip(whole, parts, strict=True)
    )  # fmt: skip


def _larger(part: Tensor, end: int) -> Tensor:
    """float[B, H, n, C] at the beginning of a tensor with `end` columns and some more."""
    whole = part.new_empty(*part.shape[:-2], end + max(LEAST_ROOM, end // 8), part.shape[-1])
    whole[..., : part.shape[-2], :] = part
    return whole


def shared_layer(layer: Any) -> Any:
    """A copy of a cache layer with its own lists; the tensors are shared until one of both replaces them."""
    if getattr(layer, "whole", None) is not None:
        layer.whole = None  # neither may write into it any longer
    found = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, (dict, list)):
            setattr(found, name, copy.copy(value))
    return found


__all__ = ["growing_layer", "shared_layer"]
