"""Activation checkpointing: layers keep only their input for the backward pass and compute the rest again there.

The `forward` of each repeated layer is replaced, not the layer: names in state dicts, adapters inside it and hooks
around it (layers of a fusion, FSDP2) stay as they are. Hooks run once, outside the recomputed part, so FSDP2 gathers
the parameters of a layer before its backward pass and they are there when it is computed again. Apply it before
`fully_shard`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import update_wrapper
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from chatbridge.models.component import Component, repeated_layers


class Recomputed:
    """A layer's `forward` whose intermediate results are computed again in the backward pass.

    Random numbers (dropout) and autocast are the same in both computations. It has no effect without gradients.
    A copied layer computes with its own parameters: the bound method is copied with it.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        update_wrapper(self, forward)
        self.forward = forward  # afterwards: a compiled one has an attribute of this name, which is copied

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)


def checkpoint_activations(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Recompute the layers of the components that a pattern matches; a line per component, for the log.

    Call it after weights and adapters are in the model and before sharding.
    """
    parts = components(model)
    lines = []
    for name in matching(patterns, parts):
        layers = layers_of(parts[name])
        for layer in layers:
            if not isinstance(layer.forward, Recomputed):
                layer.forward = Recomputed(layer.forward)
        count = "as a whole" if layers == [parts[name]] else f"in {len(layers)} layer{'s' * (len(layers) > 1)}"
        lines.append(f"{name}: activations are recomputed {count}")
    return lines


@contextmanager
def without_recomputing(part: nn.Module) -> Iterator[None]:
    """While it is open, the layers of a part keep their intermediate results."""
    found = [(one, once) for one in part.modules() if isinstance(once := one.__dict__.get("forward"), Recomputed)]
    for layer, recomputed in found:
        layer.forward = recomputed.forward
    try:
        yield
    finally:
        for layer, recomputed in found:
            layer.forward = recomputed


def components(model: nn.Module) -> dict[str, nn.Module]:
    """Name in the YAML -> component: encoders.<name>, bridges.<name>, fusion and language, those with parameters."""
    groups = ((kind, getattr(model, kind, None)) for kind in ("encoders", "bridges"))
    found = {f"{kind}.{name}": part for kind, group in groups if group is not None for name, part in group.items()}
    found |= {name: part for name in ("fusion", "language") if (part := getattr(model, name, None)) is not None}
    return {name: part for name, part in found.items() if any(True for _ in part.parameters())}


def layers_of(part: nn.Module) -> list[nn.Module]:
    """The repeated layers of a component; of one without such layers, the component."""
    return part.layers() if isinstance(part, Component) else repeated_layers(part)


def matching(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """The names that a pattern matches, each once; `*` matches any text."""
    wanted = tuple(patterns)
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in wanted)]


def by_component(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Name -> the setting of the last pattern that matches it, without names that none matches."""
    return {name: setting for name in names for pattern, setting in settings.items() if fnmatchcase(name, pattern)}
