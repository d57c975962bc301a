"""The memory of one training step: simulated without memory, or measured on the present device.

The simulation runs the forward and backward pass of the model on fake tensors (FakeTensorMode: shapes, dtypes and
a CPU as their device, no values), so whatever the code keeps for the backward pass is counted: autocast copies,
recomputed layers, chunks of the loss. A 13B model takes a few seconds. Kernels of a GPU may allocate scratch space that
no tensor shows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from chatbridge.common.dist import Dist
from chatbridge.common.types import Batch, Features, Segments
from chatbridge.models import attention_by_device
from chatbridge.models.attention_by_device import SDPA_OR_MATMUL
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component_tensors import trainable_parameters
from chatbridge.models.placement import fp32_parameters
from chatbridge.runners.parallel.replicate import Replicated
from chatbridge.runners.planned_step.live_storage import (
    ACTIVATIONS,
    BACKWARD,
    GRADIENTS,
    INPUTS,
    OPTIMIZER,
    WEIGHTS,
    StorageTracker,
    sizes,
)
from chatbridge.runners.planned_step.synthetic_batch import PlannedBatch, synthetic_batch


class NotSimulated(RuntimeError):
    """A step that fake tensors cannot run."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes at the peak of forward and backward, by part ("weights", "activations: language", "logits", ...)."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sizes(self.parts)

    @property
    def moving(self) -> dict[str, int]:
        """The parts that a batch needs: everything but weights, gradients and the optimizer's state."""
        return {name: size for name, size in self.parts.items() if name not in (WEIGHTS, GRADIENTS, OPTIMIZER)}


def simulated(model: ChatModel, shape: PlannedBatch, dtype: torch.dtype, has_gpu: bool = False) -> StepMemory:
    """The peak of a micro-batch. The model must be on the meta device; its parameters become fake tensors.

    dtype    of autocast and of frozen parameters
    has_gpu  whether the step will run on a GPU, with fused attention
    raises   NotSimulated for a model whose code reads values, which fake tensors do not have
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    _make_fake(model, mode, dtype)
    batch = _fake_batch(synthetic_batch(shape, model.media_lengths(), "cpu"), mode)
    model.train()
    tracker = StorageTracker(_vocabulary(model))
    with mode:
        tracker.add([*model.parameters(), *model.buffers()], WEIGHTS)
        parallel = Replicated(trainable_parameters(model), Dist())
        tracker.add([parallel.buffer], GRADIENTS)
        tracker.add(_tensors(batch), INPUTS)
        parallel.zero()
        try:
            with _attention_of(has_gpu), tracker:
                forward_and_backward(model, batch, parallel, tracker)
        except (RuntimeError, NotImplementedError) as error:
            raise NotSimulated(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    return StepMemory(tracker.at_peak)


@contextmanager
def _attention_of(has_gpu: bool) -> Iterator[None]:
    """Attention as it is chosen on a GPU, though the fake tensors are on a CPU."""
    before = attention_by_device.prefers_matmul
    if has_gpu:
        attention_by_device.prefers_matmul = lambda q, k: False
    try:
        yield
    finally:
        attention_by_device.prefers_matmul = before


def forward_and_backward(model: ChatModel, batch: Batch, parallel: Any, tracker: StorageTracker) -> None:
    """One micro-batch, as the runner runs it, with labels for what it allocates."""
    with _labelled_components(model, tracker):
        loss = model(batch)
        with tracker.labelled(BACKWARD):
            parallel.backward(loss.total, is_last=True)


@dataclass(frozen=True)
class MeasuredStep:
    """A step that ran: seconds of the fastest of several, peak bytes, and the parts at the peak (on a CPU only)."""

    seconds: float
    peak: int
    parts: Mapping[str, int]


def measured(
    model: ChatModel, shape: PlannedBatch, parallel: Any, optimizer: torch.optim.Optimizer, repeats: int = 2
) -> MeasuredStep:
    """Run whole steps on the device of the model, with the optimizer, and measure them. Weights change.

    The first step creates the optimizer's state and is not timed.
    raises   torch.OutOfMemoryError
    """
    device = model.device
    batch = synthetic_batch(shape, model.media_lengths(), device)
    model.train()

    def step(tracker: StorageTracker) -> None:
        parallel.zero()
        forward_and_backward(model, batch, parallel, tracker)
        parallel.reduce()
        parallel.clip(1.0)
        with tracker.labelled(OPTIMIZER):
            optimizer.step()

    unused = StorageTracker()
    step(unused)
    seconds = min((_seconds(lambda: step(unused), device) for _ in range(repeats)), default=0.0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step(unused)
        return MeasuredStep(seconds, torch.cuda.max_memory_allocated(device), {})
    tracker = StorageTracker(_vocabulary(model))
    tracker.add([*model.parameters(), *model.buffers()], WEIGHTS)
    tracker.add([p.grad for p in trainable_parameters(model).values() if p.grad is not None], GRADIENTS)
    tracker.add(_state_tensors(optimizer), OPTIMIZER)
    tracker.add(_tensors(batch), INPUTS)
    with tracker:
        step(tracker)
    return MeasuredStep(seconds, tracker.peak, tracker.at_peak)


def _seconds(run: Any, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@contextmanager
def _labelled_components(model: ChatModel, tracker: StorageTracker) -> Iterator[None]:
    """Activations of encoders, bridges and the language model count apart."""
    groups = [(f"encoders.{name}", part) for name, part in model.encoders.items()]
    groups += [(f"bridges.{name}", part) for name, part in model.bridges.items()]
    with ExitStack() as hooks:
        for name, part in [*groups, ("language", model.language)]:
            label = f"{ACTIVATIONS}: {name}"

            def enter(module: nn.Module, inputs: Any, label: str = label) -> None:
                tracker.label = label

            def leave(module: nn.Module, inputs: Any, output: Any) -> None:
                tracker.label = ACTIVATIONS

            for handle in (part.register_forward_pre_hook(enter), part.register_forward_hook(leave)):
                hooks.callback(handle.remove)
        yield


def _make_fake(model: ChatModel, mode: FakeTensorMode, dtype: torch.dtype) -> None:
    """Replace parameters and buffers by fake tensors on a CPU, in the dtypes that `place_model` gives them."""
    exact = fp32_parameters(model)
    known: dict[int, nn.Parameter] = {}

    def fake(tensor: Tensor, kind: torch.dtype) -> Tensor:
        empty = torch.empty(tensor.shape, dtype=kind, device="meta")
        return mode.fake_tensor_converter.from_meta_and_device(mode, empty, torch.device("cpu"))

    for module in model.modules():
        for name, one in module._parameters.items():
            if one is None:
                continue
            if id(one) not in known:
                is_fp32 = one.requires_grad or id(one) in exact
                kind = (torch.float32 if is_fp32 else dtype) if one.is_floating_point() else one.dtype
                known[id(one)] = nn.Parameter(fake(one, kind), requires_grad=one.requires_grad)
            module._parameters[name] = known[id(one)]
        for name, one in module._buffers.items():
            if one is not None:
                module._buffers[name] = fake(one, one.dtype)
    for part in (*model.encoders.values(), *model.bridges.values(), model.language):
        if getattr(part.config, "attention", None) is None:
            attention_by_device.choose_by_device(part)
    for part in model.modules():  # others read values, which fake tensors do not have; they keep as much as sdpa
        config: Any = getattr(part, "config", None)
        if getattr(config, "_attn_implementation", None) not in (None, "sdpa", "eager", SDPA_OR_MATMUL):
            config._attn_implementation = "sdpa"
    model.compute_dtype = dtype


def _fake_batch(batch: Batch, mode: FakeTensorMode) -> Batch:
    """The same batch of fake tensors. Without segments, positions are left to the language model: it would compare
    their values, which fake tensors do not have."""
    whole = batch if batch.segments is not None else replace(batch, positions=None)  # pyright: ignore[reportArgumentType]
    return replace(whole, **{one.name: _faked(getattr(whole, one.name), mode) for one in fields(whole)})


def _faked(value: Any, mode: FakeTensorMode) -> Any:
    if isinstance(value, Tensor):
        return mode.from_tensor(value)
    if isinstance(value, dict):
        return {key: _faked(one, mode) for key, one in value.items()}
    if isinstance(value, Segments):
        return Segments(*(_faked(getattr(value, one.name), mode) for one in fields(value)))
    if isinstance(value, Features):
        return replace(value, x=_faked(value.x, mode), mask=_faked(value.mask, mode))
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor of a batch."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, (Batch, Segments, Features)):
        for one in fields(value):
            yield from _tensors(getattr(value, one.name))


def _state_tensors(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for state in optimizer.state.values():
        yield from (one for one in state.values() if isinstance(one, Tensor))


def _vocabulary(model: ChatModel) -> int | None:
    try:
        return len(model.language.vocabulary_modules[1].weight)
    except ValueError:
        return None
