"""Hooks that others put on a language model's modules, which its own files know nothing of."""

from __future__ import annotations

from torch import nn

_KINDS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)  # fmt: skip


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Put the hooks of each module of `old` on the module of `new` that has its name: `new` takes its place."""
    modules = dict(new.named_modules())
    for name, module in old.named_modules():
        for kind in _KINDS:
            getattr(modules[name], kind).update(getattr(module, kind))
