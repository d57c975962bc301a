"""Components that compute in another dtype than the run: an encoder in fp32 beside a language model in bf16."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import update_wrapper
from typing import Any

import torch
from torch import Tensor, nn

from chatbridge.common.types import Features
from chatbridge.models.memory import components

METHODS = ("forward", "logits", "beam_search")  # of components, those that compute


class InDtype:
    """A method that computes under its own autocast dtype, whatever the one of its caller is.

    In fp32 its inputs become fp32. Outside, results in bf16 become fp32 where the caller has no autocast.
    """

    def __init__(self, method: Callable[..., Any], device: str, dtype: torch.dtype, outside: torch.dtype) -> None:
        self.method, self.device, self.dtype, self.outside = method, device, dtype, outside
        update_wrapper(self, method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.dtype == torch.float32:
            args, kwargs = tuple(map(_in_fp32, args)), {key: _in_fp32(value) for key, value in kwargs.items()}
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            result = self.method(*args, **kwargs)
        return _in_fp32(result) if self.outside == torch.float32 else result


def compute_in(model: nn.Module, device: torch.device, dtypes: Mapping[str, torch.dtype], dtype: torch.dtype) -> None:
    """Make components compute in their own dtype.

    dtypes   name of a component -> its dtype
    dtype    of the run
    """
    parts = components(model)
    for name, own in dtypes.items():
        for method in METHODS:
            found = getattr(parts[name], method, None)
            if found is not None and not isinstance(found, InDtype):
                setattr(parts[name], method, InDtype(found, device.type, own, dtype))


def stored_dtypes(model: nn.Module, dtypes: Mapping[str, torch.dtype]) -> dict[int, torch.dtype]:
    """`id()` of the parameters of these components -> the dtype in which they are stored while frozen."""
    parts = components(model)
    return {id(p): own for name, own in dtypes.items() for p in parts[name].parameters()}


def _in_fp32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, Features) and value.scale is None:
        return replace(value, x=value.x.float())
    return value
