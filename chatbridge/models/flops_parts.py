"""Operations of the parts of a model: linear layers by formula, encoders and bridges on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from chatbridge.models.memory import layers_of, without_recomputing


@dataclass(frozen=True)
class Flops:
    """Operations of one component: forward, backward, and what activation checkpointing repeats of the forward pass.

    That is less than all of it: a layer is computed again up to the last tensor that its backward pass needs, so mostly
    without its last product; and what is outside the layers is kept.
    """

    forward: float = 0.0
    backward: float = 0.0
    repeated: float = 0.0

    @property
    def total(self) -> float:
        """Operations of the model, which MFU counts: forward and backward."""
        return self.forward + self.backward

    @property
    def executed(self) -> float:
        """All operations, repeated ones included."""
        return self.total + self.repeated

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward, self.repeated + other.repeated)

    def __mul__(self, times: float) -> Flops:
        return Flops(self.forward * times, self.backward * times, self.repeated * times)


@dataclass(frozen=True)
class LinearLayers:
    """The linear layers of a module.

    products        (operations per position, whether the weight is trained) of each, in the order of the module
    trains_vectors  whether norms or biases are trained, so that a gradient flows to the input of all
    """

    products: tuple[tuple[float, bool], ...]
    trains_vectors: bool

    @staticmethod
    def of(module: nn.Module) -> LinearLayers:
        return LinearLayers.of_modules(list(module.modules()))

    @staticmethod
    def of_modules(modules: Iterable[nn.Module]) -> LinearLayers:
        """modules   all of them, not only the outermost"""
        modules = list(modules)
        linear = [module for module in modules if _is_linear(module)]
        own = (p for one in modules if not _is_linear(one) for p in one.parameters(recurse=False))
        return LinearLayers(
            tuple((_product(one), _is_trained(one.weight)) for one in linear), any(p.requires_grad for p in own)
        )

    @property
    def trains_products(self) -> bool:
        return any(is_trained for _, is_trained in self.products)

    @property
    def is_trainable(self) -> bool:
        return self.trains_vectors or self.trains_products

    def repeated(self) -> float:
        """What checkpointing repeats per position: all products but the last, whose output no backward pass needs."""
        return sum(product for product, _ in self.products[:-1])

    def __call__(self, has_gradient: bool) -> Flops:
        """Operations per position. has_gradient: whether the input of the first layer needs one"""
        cost, has_gradient = Flops(), has_gradient or self.trains_vectors
        for product, is_trained in self.products:
            cost += Flops(product, product * (has_gradient + is_trained))
            has_gradient = has_gradient or is_trained
        return cost


def _is_linear(module: nn.Module) -> bool:
    """A linear layer, also one with quantised weights or of GPT-2's kind."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _product(module: nn.Module) -> float:
    """Operations of a linear layer per position."""
    if isinstance(module, nn.Linear):
        return 2.0 * module.in_features * module.out_features
    return 2.0 * cast("Tensor", module.weight).numel()


def _is_trained(weight: Any) -> bool:
    return weight.requires_grad


def is_trainable(module: nn.Module | None) -> bool:
    return module is not None and any(parameter.requires_grad for parameter in module.parameters())


def on_meta(part: nn.Module, *inputs: Any) -> Any:
    """The output of a part with empty tensors in place of its parameters and buffers."""
    named = [*part.named_parameters(), *part.named_buffers()]
    with torch.device("meta"):
        tensors = {
            name: torch.empty(one.shape, dtype=torch.float32 if one.is_floating_point() else one.dtype)
            .requires_grad_(one.requires_grad)
            for name, one in named
        }  # fmt: skip
        return functional_call(part, tensors, inputs)


def measured(part: nn.Module, run: Callable[[], Any], num_tokens: int) -> Flops:
    """The operations of `run`, an output of `part` on the meta device, of its backward pass, and of repeated layers.

    A part that does not run on the meta device is estimated from its matrices: two operations per value and token.
    """
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad(), without_recomputing(part):
            with FlopCounterMode(display=False) as forward, _counting_repeats(part, forward) as repeated:
                output: Tensor = run()
            if not output.requires_grad:
                return Flops(forward.get_total_flops())
            with FlopCounterMode(display=False) as backward:
                output.sum().backward()
        return Flops(forward.get_total_flops(), backward.get_total_flops(), sum(repeated))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return _estimated(part) * num_tokens


@contextmanager
def _counting_repeats(part: nn.Module, counter: FlopCounterMode) -> Iterator[list[int]]:
    """A list to which every call of a layer adds what checkpointing would repeat of it."""
    repeated: list[int] = []

    def counting(forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = last = counter.get_total_flops()

            def pack(tensor: Tensor) -> Tensor:
                nonlocal last
                last = counter.get_total_flops()  # without the operation that saves its input
                return tensor

            with saved_tensors_hooks(pack, lambda tensor: tensor):
                found = forward(*args, **kwargs)
            repeated.append(last - begin)
            return found

        return call

    kept = [(layer, layer.__dict__.get("forward")) for layer in layers_of(part)]
    for layer, _ in kept:
        layer.forward = counting(layer.forward)
    try:
        yield repeated
    finally:
        for layer, forward in kept:
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


def _estimated(part: nn.Module) -> Flops:
    forward = sum(2.0 * parameter.numel() for parameter in part.parameters() if parameter.ndim > 1)
    return Flops(forward, 2.0 * forward * is_trainable(part), forward * is_trainable(part))
