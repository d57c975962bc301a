"""How a model is placed on the ranks, and how its gradients meet. One file per way; `run.parallel` names it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from chatbridge.common.dist import Dist
from chatbridge.models.component_tensors import trainable_parameters
from chatbridge.runners.config import RunConfig


class Parallel(Protocol):
    """A model on all ranks: its trainable parameters, and their gradients over one step.

    Per step: `zero`, then `backward` for each micro-batch, `reduce`, `clip`. Every rank makes the same calls in the
    same order, whatever its batches contain.
    """

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """State-dict name -> what the optimizer of this rank updates: the whole parameter, or its rows of this rank."""
        ...

    @property
    def sharded(self) -> Mapping[str, Tensor]:
        """State-dict name -> each trainable parameter that is spread over the ranks, DTensor[...]; empty: none is."""
        ...

    def zero(self) -> None:
        """Set every gradient to zero."""

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add the gradient of one micro-batch.

        loss      float[]; it may depend on no trainable parameter
        is_last   whether it is the last micro-batch of the step
        """

    def reduce(self) -> None:
        """Sum the gradients over ranks."""

    def clip(self, max_norm: float | None) -> Tensor:
        """Scale the gradients to a common norm of at most `max_norm`; returns the norm before, float[]."""
        ...

    def clip_so_far(self, max_norm: float | None) -> None:
        """Sum over ranks and clip the gradients of the micro-batches so far; those that follow are added to it."""

    def gathered(self) -> AbstractContextManager[None]:
        """While it is open, ranks may run the model without gradients any number of times, independently."""
        ...

    def release(self) -> None:
        """Free weights of other ranks that forwards without gradients have left here; call it after them."""


def place(model: nn.Module, run: RunConfig, dist: Dist) -> Parallel:
    """Place a model, with its weights and adapters in it, as `run.parallel` says; before the optimizer is built.

    raises   ValueError if a trainable parameter is not float32, or the layers cannot be spread
    """
    if run.parallel == "shard":
        from chatbridge.runners.parallel.shard import Sharded

        return Sharded(model, run.sharding, dist, getattr(model, "compute_dtype", torch.float32))
    from chatbridge.runners.parallel.replicate import Replicated

    return Replicated(trainable_parameters(model), dist)


__all__ = ["Parallel", "place"]
