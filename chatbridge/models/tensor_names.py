"""Names of a YAML that become names in a state dict."""

from __future__ import annotations

from torch import nn


def is_nameable(name: str, module: nn.Module) -> bool:
    """Whether a tensor or part of `module` can have this name: without a dot, and no attribute of the module."""
    return bool(name) and "." not in name and not hasattr(module, name)


__all__ = ["is_nameable"]
