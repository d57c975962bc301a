"""AdamW over the trainable parameters, and learning rates as pure functions of the step.

A schedule has no state: a resumed run needs only the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import nn

from chatbridge.config.schema import Formerly, Range


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW. By default, weight decay also applies to biases, norms and queries, as in the released ChatBridge."""

    lr: Annotated[float, Range(low=0), Formerly("init_lr")] = 1e-4  # learning rate at the end of the warm-up
    weight_decay: Annotated[float, Range(low=0)] = 0.05
    decay_vectors: bool = True  # false: no decay for biases and norms, as in MiniGPT-4
    betas: tuple[float, float] = (0.9, 0.999)  # decay of the running means of the gradient and its square
    eps: Annotated[float, Range(low=0)] = 1e-8


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate: from `warmup_lr` up to `optimizer.lr`, then down to `min_lr`."""

    kind: Annotated[Literal["cosine", "constant", "lavis_cosine", "lavis_step"], Formerly("lr_sched")] = "cosine"
    warmup_steps: Annotated[int, Range(low=0)] = 0  # steps of the linear warm-up from warmup_lr to optimizer.lr
    warmup_lr: Annotated[float, Range(low=0)] = 1e-6  # learning rate of step 0
    min_lr: Annotated[float, Range(low=0)] = 0.0  # learning rate at the end of the cosine
    epoch_steps: Annotated[int, Range(low=1)] | None = None  # lavis_*: steps per epoch; null: the whole run
    decay_rate: Annotated[float, Range(low=0, high=1), Formerly("lr_decay_rate")] = 0.5  # lavis_step: factor per epoch


@dataclass(frozen=True)
class Schedule:
    """Maps a step (the first is 0) to its learning rate."""

    config: ScheduleConfig
    peak_lr: float
    max_steps: int

    def __call__(self, step: int) -> float:
        shapes = {"cosine": cosine, "constant": constant, "lavis_cosine": lavis_cosine, "lavis_step": lavis_step}
        return shapes[self.config.kind](self, step)


def cosine(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then half a cosine from its end to the end of the run, without a jump between them."""
    warmup = schedule.config.warmup_steps
    if step < warmup:
        return _warmup(schedule, step)
    return _half_cosine(schedule, step - warmup, schedule.max_steps - warmup)


def constant(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then `optimizer.lr`."""
    return _warmup(schedule, step) if step < schedule.config.warmup_steps else schedule.peak_lr


def lavis_cosine(schedule: Schedule, step: int) -> float:
    """linear_warmup_cosine_lr of LAVIS, with which the released models were trained.

    Two differences from `cosine`: the warm-up counts steps within the epoch, so one longer than an epoch restarts; and
    the cosine counts from step 0, so the rate drops slightly at the end of the warm-up.
    """
    if step < schedule.config.warmup_steps:
        return _warmup(schedule, step % _epoch_steps(schedule))
    return _half_cosine(schedule, step, schedule.max_steps)


def lavis_step(schedule: Schedule, step: int) -> float:
    """linear_warmup_step_lr of LAVIS: warm-up in the first epoch, then a factor per epoch, never below min_lr."""
    epoch, step_in_epoch = divmod(step, _epoch_steps(schedule))
    if epoch == 0:
        return _warmup(schedule, step_in_epoch)
    return max(schedule.config.min_lr, schedule.peak_lr * schedule.config.decay_rate**epoch)


def build_optimizer(parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over named parameters; the runner sets the learning rate before every step.

    raises  ValueError if there is no trainable parameter
    """
    if not parameters:
        raise ValueError("no parameter is trainable; set model.trainable, for example to ['bridges.*']")
    decayed = [p for p in parameters.values() if config.decay_vectors or p.ndim > 1]
    groups: list[dict[str, Any]] = [{"params": decayed}] if decayed else []
    if rest := [p for p in parameters.values() if not config.decay_vectors and p.ndim <= 1]:
        groups.append({"params": rest, "weight_decay": 0.0})
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=(config.betas[0], config.betas[1]),
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, dict]:
    """Parameter name -> its moments. Names, unlike positions, are independent of the order of parameters."""
    return {name: dict(optimizer.state[p]) for name, p in parameters.items() if p in optimizer.state}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, dict]
) -> None:
    """Restore what `optimizer_state` returned.

    raises  ValueError with the parameters that only one side has
    """
    if unknown := sorted(state.keys() - parameters.keys()):
        raise ValueError(f"the optimizer state has parameters that are not trainable now: {', '.join(unknown[:10])}")
    if state and (missing := sorted(parameters.keys() - state.keys())):
        raise ValueError(f"the optimizer state lacks parameters that are trainable now: {', '.join(missing[:10])}")
    for name, entries in state.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {key: _placed(key, value, parameter) for key, value in entries.items()}


def _placed(key: str, value: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
    """On the device of AdamW: its step counter is on the CPU, its moments are on the parameter's device."""
    return value.clone() if key == "step" else value.to(parameter.device, parameter.dtype)


def _warmup(schedule: Schedule, step: int) -> float:
    config = schedule.config
    rise = (schedule.peak_lr - config.warmup_lr) * step / max(config.warmup_steps, 1)
    return min(schedule.peak_lr, config.warmup_lr + rise)


def _half_cosine(schedule: Schedule, step: int, steps: int) -> float:
    low = schedule.config.min_lr
    return low + (schedule.peak_lr - low) * 0.5 * (1.0 + math.cos(math.pi * step / max(steps, 1)))


def _epoch_steps(schedule: Schedule) -> int:
    return schedule.config.epoch_steps or schedule.max_steps
