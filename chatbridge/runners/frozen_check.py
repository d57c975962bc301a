"""Checks after the first step that exactly the tensors listed under `trainable` changed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from chatbridge.common.errors import TrainingError, some
from chatbridge.models.component_tensors import frozen_tensors, trainable_parameters
from chatbridge.models.fingerprints import is_sharded

SHOWN = 8  # names in a message
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class FrozenCheck:
    """Checksums of every tensor of a model, to determine later which of them changed.

    parameters   state-dict name -> trainable parameter
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self.model = model
        self.parameters = parameters
        self.before = checksums(model)

    def changed(self) -> set[str]:
        """Names of the tensors that changed since construction."""
        after = checksums(self.model)
        return {name for name in after if after[name] != self.before[name]}

    def check(self, rates: Mapping[str, float], eps: float) -> list[str]:
        """Call it after the first step, before the gradients are reset.

        rates    trainable name -> its learning rate in the step
        returns  trainable names that did not change, because the step had none of their media, or lr is 0.
                 The first matrix of an adapter is not among them if the second one changed, which was zero before
        raises   TrainingError with the frozen tensors that changed, or trainable ones that had a gradient and did not
        """
        changed = self.changed()
        if frozen := sorted(changed - self.parameters.keys()):
            raise TrainingError(f"frozen tensors changed in the first step: {some(frozen, SHOWN)}")
        unchanged = [name for name in self.parameters if name not in changed]
        if stuck := [name for name in unchanged if _must_change(self.parameters[name], rates[name], eps)]:
            raise TrainingError(f"trainable tensors had a gradient but did not change: {some(stuck, SHOWN)}")
        return [name for name in unchanged if name.replace(".lora_A.", ".lora_B.") not in changed]


def checksums(model: nn.Module) -> dict[str, int]:
    """Tensor name -> sum of its bit patterns, over all trainable and frozen tensors; one transfer from the device."""
    state = {**trainable_parameters(model), **frozen_tensors(model)}
    sums = [_bits(tensor).sum(dtype=torch.int64) for tensor in state.values()]
    return dict(zip(state, torch.stack(sums).tolist(), strict=True)) if sums else {}


def _bits(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    tensor = tensor.to_local() if is_sharded([tensor]) else tensor  # type: ignore[operator]  # the rows of this rank
    return tensor.contiguous().view(_BITS[tensor.element_size()]) if tensor.is_floating_point() else tensor


def _must_change(parameter: nn.Parameter, lr: float, eps: float) -> bool:
    """Whether Adam's first step must show: it is about lr for gradients well above eps; rounding may hide others."""
    if parameter.grad is None or not parameter.numel():
        return False
    is_reached = parameter.grad.abs().max() > 10 * eps
    return bool(is_reached and lr > 1e-6 * parameter.detach().abs().max())
