"""Promise 2: exactly the tensors listed under `trainable` change. The runner asserts it after its first step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from chatbridge.common.errors import TrainingError
from chatbridge.models.component_tensors import frozen_tensors, trained_tensors

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class FrozenCheck:
    """Checksums of every stored tensor of a model, to find out later which of them changed."""

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self.model = model
        self.parameters = parameters
        self.before = checksums(model)

    def moved(self) -> set[str]:
        after = checksums(self.model)
        return {name for name in after if after[name] != self.before[name]}

    def check(self, lr: float, eps: float) -> list[str]:
        """Call it after the first step, while the gradients still stand.

        returns  names that train but were not reached by this step: their medium was not in it, or lr is 0
        raises   TrainingError naming frozen tensors that moved and reached tensors that stood still
        """
        moved = self.moved()
        if strayed := sorted(moved - self.parameters.keys()):
            raise TrainingError(f"frozen tensors changed in the first step: {some(strayed)}")
        still = [name for name in self.parameters if name not in moved]
        if stuck := [name for name in still if _must_move(self.parameters[name], lr, eps)]:
            raise TrainingError(f"trainable tensors got a gradient and did not move: {some(stuck)}")
        return still


def checksums(model: nn.Module) -> dict[str, int]:
    """The sum of the bit patterns of every tensor that the model would save; one transfer from the device."""
    state = {**trained_tensors(model), **frozen_tensors(model)}
    sums = [_bits(tensor).sum(dtype=torch.int64) for tensor in state.values()]
    return dict(zip(state, torch.stack(sums).tolist(), strict=True)) if sums else {}


def _bits(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.contiguous().view(_BITS[tensor.element_size()]) if tensor.is_floating_point() else tensor


def _must_move(parameter: nn.Parameter, lr: float, eps: float) -> bool:
    """Adam's first step is about lr where the gradient is well above eps; smaller ones may drown in rounding."""
    if parameter.grad is None or not parameter.numel():
        return False
    is_reached = parameter.grad.abs().max() > 10 * eps
    return bool(is_reached and lr > 1e-6 * parameter.detach().abs().max())


def some(names: list[str], count: int = 8) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
