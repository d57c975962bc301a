"""torch.compile for the repeated layers of chosen components.

Layers are compiled one by one ("regional compilation"): equal layers share their code, so a model of 40 layers takes as
long as one of 2, and names in state dicts, hooks and sharding stay as they are. A new length of padded batches compiles
a second time, with lengths as variables; later ones do not.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import update_wrapper
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from chatbridge.models.fusion import Context
from chatbridge.models.memory import components, layers_of, matching

CACHES = ("past_key_values", "cache_params")  # arguments of decoder layers while an answer is generated


class Compiled:
    """A layer's `forward`, compiled at its first call; with a KV cache, whose length grows by one per call, it is not,
    nor is a layer of a fusion while an answer is generated.

    A copied layer compiles its own.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        update_wrapper(self, forward)
        self.forward = forward
        self.fast: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        is_stepwise = any(isinstance(one, Context) and one.is_stepwise for one in args)
        if is_stepwise or any(kwargs.get(name) is not None for name in CACHES):
            return self.forward(*args, **kwargs)
        if self.fast is None:
            self.fast = torch.compile(self.forward)
        return self.fast(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Compiled code refers to the layer it was made for."""
        return {**vars(self), "fast": None}


def compile_components(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Compile the layers of the components that a pattern matches; a line per component, for the log.

    Call it before `checkpoint_activations`, which then computes compiled layers again, and before sharding.
    """
    parts = components(model)
    lines = []
    for name in matching(patterns, parts):
        layers = layers_of(parts[name])
        for layer in layers:
            layer.forward = Compiled(layer.forward)
        lines.append(f"{name}: {len(layers)} layer{'s' * (len(layers) > 1)} will be compiled at the first step")
    return lines


def compile_obstacle(device: torch.device) -> str | None:
    """What torch.compile lacks on this machine, with the next step; None if nothing."""
    if device.type == "cuda":
        return None if find_spec("triton") else "triton is not installed; install it with: pip install triton"
    names = [name for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name]
    if any(shutil.which(name) for name in names):
        return None
    return f"there is no C++ compiler ({', '.join(names)}); install one, for example with: apt install g++"
