"""How gradients meet across ranks. One file per way; `run.parallel` names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn


class Gradients(Protocol):
    """The gradients of all trainable parameters over one step.

    Per step: `zero`, then any number of backward passes, `reduce`, `clip`.
    """

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """state-dict name -> trainable parameter"""
        ...

    def zero(self) -> None:
        """Set every gradient to zero."""

    def reduce(self) -> None:
        """Sum the gradients over ranks."""

    def clip(self, max_norm: float | None) -> Tensor:
        """Scale the gradients to a common norm of at most `max_norm`; returns the norm before, float[]."""
        ...
