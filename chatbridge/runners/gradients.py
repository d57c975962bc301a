"""`replicate`: every rank holds the whole model and the gradients are added up once per step.

All gradients live in one flat buffer and each parameter's `.grad` is a window into it. So the sum over ranks is one
collective of a size that never depends on the batch: a rank that saw no sound sends zeros for the sound queries, nobody
waits for a hook that does not fire, and any number of micro-batches needs no `no_sync`. (Hook-driven DDP leaves a
gradient unreduced when a part is used in an early micro-batch on one rank and in the last micro-batch on none.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from chatbridge.common.dist import Dist


class Gradients:
    """The gradients of everything that trains; call zero, backward as often as you like, reduce, clip - in this order.

    A parameter that no rank used has gradient zero (not none): its moments and its weight decay go on, as they do in
    one big batch.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], dist: Dist) -> None:
        """raises ValueError when a trainable parameter is not float32: moments of a rounded weight do not add up"""
        for name, parameter in parameters.items():
            if parameter.dtype != torch.float32:
                raise ValueError(f"{name} trains in {parameter.dtype}; what trains is kept in float32")
        self.parameters = dict(parameters)
        self.dist = dist
        self.buffer = torch.zeros(sum(p.numel() for p in parameters.values()), device=_device(parameters))
        self.windows = _windows(self.buffer, self.parameters)

    def zero(self) -> None:
        """Empty the buffer and hand every parameter its window again."""
        self.buffer.zero_()
        for name, parameter in self.parameters.items():
            parameter.grad = self.windows[name]

    def reduce(self) -> None:
        """Add up over ranks: the one exchange of weights-sized data in a step."""
        for name, parameter in self.parameters.items():
            assert parameter.grad is not None and parameter.grad.data_ptr() == self.windows[name].data_ptr(), name
        self.dist.add_up(self.buffer)

    def clip(self, max_norm: float | None) -> Tensor:
        """Scale all gradients so that their common norm is at most `max_norm`; returns the norm before, float[].

        The norm is infinite or nan when any gradient is, so it also answers whether the step may be taken.
        """
        norm = torch.linalg.vector_norm(self.buffer)
        if max_norm is not None:
            self.buffer.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm


def _device(parameters: Mapping[str, nn.Parameter]) -> torch.device:
    return next(iter(parameters.values())).device if parameters else torch.device("cpu")


def _windows(buffer: Tensor, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """A view of `buffer` per parameter, in the order of the names, with the parameter's shape."""
    parts = buffer.split([p.numel() for p in parameters.values()])
    return {name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts, strict=True)}
