"""Run real steps of planned shape on this machine, with random weights, and correct the prediction by them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.experiment.build import Built, build_model
from chatbridge.experiment.plan.memory import CONTEXT, MemoryPlanner
from chatbridge.experiment.plan.planner import Plan
from chatbridge.experiment.plan.request import show_size
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component_tensors import trainable_parameters
from chatbridge.models.flops import total
from chatbridge.models.memory import checkpoint_activations
from chatbridge.runners.config import compute_dtype
from chatbridge.runners.optim import build_optimizer
from chatbridge.runners.parallel.replicate import Replicated
from chatbridge.runners.planned_step.measure import MeasuredStep, measured
from chatbridge.runners.planned_step.synthetic_batch import PlannedBatch

MOST_PARAMETERS = {"cpu": 300_000_000, "cuda": 100_000_000_000}  # of a probe on such a device


@dataclass(frozen=True)
class ProbedStep:
    """A step that ran; a peak of 0: out of memory.

    rows       of its micro-batch
    predicted  bytes at the peak
    rate       operations of the model per second
    """

    rows: int
    measured: MeasuredStep
    predicted: int
    rate: float


def probe(plan: Plan) -> list[ProbedStep]:
    """Steps with 1, 2, 4, ... rows up to the planned micro-batch, until the memory is full.

    raises   ConfigError for a model that is too large for this device, or sharded
    """
    largest = plan.memory.shape if plan.memory is not None else None
    if largest is None:
        raise ConfigError([Problem("--probe", "needs the length of a conversation, and none is known")])
    device = torch.device("cuda" if torch.cuda.is_available() and plan.settings.device != "cpu" else "cpu")
    _check(plan, device)
    dtype = compute_dtype(plan.settings.precision, device)
    planner = MemoryPlanner(_model(plan, on_meta=True).model, dtype, device.type == "cuda", plan.run.bits)
    model, parallel, optimizer = _ready(plan, device)
    flops = planner.flops(plan.settings)
    found = []
    for shape in _growing(largest):
        predicted = planner.peak(plan.settings, shape, 1)
        size = sum(bytes for name, bytes in predicted.parts.items() if name != CONTEXT)
        try:
            step = measured(model, shape, parallel, optimizer)
        except torch.OutOfMemoryError:
            found.append(ProbedStep(shape.rows, MeasuredStep(0.0, 0, {}), size, 0.0))
            break
        found.append(ProbedStep(shape.rows, step, size, total(flops(shape)).total / step.seconds))
    return found


def _check(plan: Plan, device: torch.device) -> None:
    values = sum(one.frozen + one.trained + one.adapted for one in plan.planner.components)
    problems = []
    if values > MOST_PARAMETERS[device.type]:
        message = f"would build {values:,} parameters on the {device.type}, at most {MOST_PARAMETERS[device.type]:,}"
        problems.append(Problem("--probe", message, hint="run it on a machine with a GPU, or plan without --probe"))
    if plan.settings.parallel == "shard":
        hint = "plan without --probe, or probe with --options run.parallel=replicate"
        problems.append(Problem("--probe", "runs one process, and run.parallel is shard", hint=hint))
    if problems:
        raise ConfigError(problems)


def _model(plan: Plan, on_meta: bool) -> Built:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.settings.seed)
        return build_model(plan.run.config.model, on_meta)


def _ready(plan: Plan, device: torch.device) -> tuple[ChatModel, Replicated, torch.optim.Optimizer]:
    """The model on the device, its gradients and its optimizer; weights are random where their files are absent."""
    run, built = plan.settings, _model(plan, on_meta=False)
    built.load_weights(device, run.precision)
    checkpoint_activations(built.model, run.activation_checkpointing)
    built.model.loss_chunk_mb = run.loss_chunk_mb
    parallel = Replicated(trainable_parameters(built.model), Dist(device=device))
    gc.collect()
    return built.model, parallel, build_optimizer(parallel.parameters, run.optimizer)


def _growing(largest: PlannedBatch) -> Iterator[PlannedBatch]:
    """Batches of 1, 2, 4, ... rows of the largest one, and itself."""
    rows = 1
    while rows < largest.rows:
        yield largest.times(rows / largest.rows)
        rows *= 2
    yield largest


def correction(steps: list[ProbedStep]) -> float:
    """Measured by predicted bytes of the largest step that ran."""
    ran = [one for one in steps if one.measured.peak]
    return ran[-1].measured.peak / ran[-1].predicted if ran and ran[-1].predicted else 1.0


def probe_text(plan: Plan, steps: list[ProbedStep]) -> str:
    """The steps, and what they say about the plan."""
    head = f"{'probe: rows':<14}{'seconds':>10}{'peak':>14}{'predicted':>14}{'TFLOP/s':>10}"
    lines = [head]
    for one in steps:
        if not one.measured.peak:
            lines.append(f"  {one.rows:<12}{'out of memory':>24}{show_size(one.predicted):>14}")
            continue
        peak, predicted = show_size(one.measured.peak), show_size(one.predicted)
        lines.append(f"  {one.rows:<12}{one.measured.seconds:>10.3g}{peak:>14}{predicted:>14}{one.rate / 1e12:>10.3g}")
    factor = correction(steps)
    if plan.memory is not None:
        whole = show_size(plan.memory.total * factor)
        lines.append(f"  measured memory is {factor:.2f} x the prediction; the plan corrected by it: {whole}")
    ran = [one for one in steps if one.measured.peak]
    if ran:
        step, steps_of_run = plan.work.step.total, plan.settings.max_steps
        hours = step * steps_of_run / ran[-1].rate / 3600
        lines.append(f"  at the measured rate the run takes {hours:,.2f} hours on such devices")
    return "\n".join(lines)
