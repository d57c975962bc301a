"""`replicate`: every rank holds the whole model, and gradients are summed over ranks once per step.

All gradients live in one flat buffer, and each parameter's `.grad` is a view of it. The sum over ranks is therefore one
all-reduce whose size never depends on the batch: a rank without audio sends zeros for the audio queries, no rank waits
for a hook that does not fire, and any number of micro-batches works without `no_sync`. (DDP's hooks leave a gradient
unreduced if a part is used in an early micro-batch on one rank and in the last micro-batch on none.)
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from chatbridge.common.dist import Dist
from chatbridge.runners.parallel.norm import sum_of_squares


class Replicated:
    """Implements `Parallel` for a model that every rank holds in full.

    A parameter that no rank used has a zero gradient, not None: its moments and weight decay are updated as in one big
    batch.

    parameters   state-dict name -> trainable parameter
    raises       ValueError if a trainable parameter is not float32, since small updates of a bf16 weight round to 0
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], dist: Dist) -> None:
        for name, parameter in parameters.items():
            if parameter.dtype != torch.float32:
                stored = f"{name} is trainable but stored in {parameter.dtype}"
                raise ValueError(f"{stored}; trainable parameters must be stored in float32")
        self.parameters = dict(parameters)
        self.sharded: dict[str, Tensor] = {}
        self.dist = dist
        self.buffer = torch.zeros(sum(p.numel() for p in parameters.values()), device=_device(parameters, dist))
        self.views = _views(self.buffer, self.parameters)

    def zero(self) -> None:
        """Set the buffer to zero, and every parameter's `.grad` to its view of it."""
        self.buffer.zero_()
        for name, parameter in self.parameters.items():
            parameter.grad = self.views[name]

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add the gradient of one micro-batch; loss float[]. A text-only loss may depend on no trainable parameter."""
        if loss.requires_grad:
            loss.backward()

    def reduce(self) -> None:
        """Sum the buffer over ranks: the only exchange of this size in a step."""
        for name, parameter in self.parameters.items():
            assert parameter.grad is not None and parameter.grad.data_ptr() == self.views[name].data_ptr(), name
        self.dist.all_reduce(self.buffer)

    def clip(self, max_norm: float | None) -> Tensor:
        """Scale all gradients to a common norm of at most `max_norm`; None: no limit.

        returns  float[]  the norm before clipping; inf or nan if any gradient is, so it also shows whether the step
                          may be taken
        """
        norm = self.norm()
        if max_norm is not None:
            self.buffer.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def clip_so_far(self, max_norm: float | None) -> None:
        """Sum the gradients so far over ranks and clip them; one rank keeps the result, so the next sum has it once."""
        self.reduce()
        self.clip(max_norm)
        self.keep_on_one_rank()

    def keep_on_one_rank(self) -> None:
        """Set gradients that are equal on all ranks to zero on all but the first one."""
        if not self.dist.is_main:
            self.buffer.zero_()

    def norm(self) -> Tensor:
        """The common norm of all gradients, float[]."""
        return sum_of_squares(self.buffer).sqrt().float()

    def gathered(self) -> AbstractContextManager[None]:
        """Nothing to do: every rank holds the whole model."""
        return nullcontext()

    def release(self) -> None:
        """Nothing to do: no rank has weights of others."""


def _device(parameters: Mapping[str, nn.Parameter], dist: Dist) -> torch.device:
    return next(iter(parameters.values())).device if parameters else dist.device


def _views(buffer: Tensor, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """A view of `buffer` per parameter, in the order of the names, with the parameter's shape."""
    parts = buffer.split([p.numel() for p in parameters.values()])
    return {name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts, strict=True)}
