"""The norm of gradients as exact as fp32 can say it, in whatever parts the gradients are stored."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1 << 16  # values that a CPU holds in fp64 at a time: half a megabyte


def sum_of_squares(gradient: Tensor) -> Tensor:
    """The squares of all values, summed; float64[] on the device of the gradient, which is float32[...].

    On a CPU every square is summed in fp64. torch.linalg.vector_norm sums there in a few fp32 registers, one value
    after the other: over a million values it is off by 1e-5, or 7e-5 where their sizes differ much, so that a norm
    depends on how gradients are cut into tensors. On a GPU it sums in a tree, which keeps fp32's precision; only the
    sum over tensors needs fp64 there.
    """
    if gradient.device.type != "cpu":
        return torch.linalg.vector_norm(gradient).double().square()
    total = torch.zeros((), dtype=torch.float64)
    for chunk in gradient.reshape(-1).split(CHUNK):
        values = chunk.double()
        total += torch.dot(values, values)
    return total


__all__ = ["sum_of_squares"]
