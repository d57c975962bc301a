"""AdamW over the trainable parameters, with moments in fp32 or 8 bits, and learning rates as functions of the step.

A schedule has no state: a resumed run needs only the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import nn

from chatbridge.common.bitsandbytes_support import bitsandbytes_obstacle
from chatbridge.common.errors import Problem
from chatbridge.config.schema import Formerly, Range
from chatbridge.runners.optimizer_groups import GroupConfig, groups_of, lr_problems

ScheduleKind = Literal["cosine", "linear", "constant", "lavis_cosine", "lavis_step"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW. By default, weight decay also applies to biases, norms and queries, as in the released ChatBridge."""

    # adamw_8bit: moments in 8 bits (bitsandbytes, Dettmers et al. 2022), 2 bytes a value instead of 8; those of tensors
    # with less than 4,096 values stay in fp32. Not with run.parallel: shard
    kind: Literal["adamw", "adamw_8bit"] = "adamw"
    lr: Annotated[float, Range(low=0), Formerly("init_lr")] = 1e-4  # learning rate at the end of the warm-up
    weight_decay: Annotated[float, Range(low=0)] = 0.05
    decay_vectors: bool = True  # false: no decay for biases and norms, as in MiniGPT-4
    betas: tuple[float, float] = (0.9, 0.999)  # decay of the running means of the gradient and its square
    eps: Annotated[float, Range(low=0)] = 1e-8
    groups: tuple[GroupConfig, ...] = ()  # learning rate and weight decay of some tensors, by pattern

    def problems(self) -> Iterator[Problem]:
        yield from lr_problems(self.groups, self.lr)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate: from `warmup_lr` up to `optimizer.lr`, then down to `min_lr`."""

    # after the warm-up; linear: a straight line down to min_lr at the end of the run
    kind: Annotated[ScheduleKind, Formerly("lr_sched")] = "cosine"
    warmup_steps: Annotated[int, Range(low=0)] = 0  # steps of the linear warm-up from warmup_lr to optimizer.lr
    warmup_lr: Annotated[float, Range(low=0)] = 1e-6  # learning rate of step 0
    min_lr: Annotated[float, Range(low=0)] = 0.0  # learning rate at the end of the run; lavis_step: the lowest
    epoch_steps: Annotated[int, Range(low=1)] | None = None  # lavis_*: steps per epoch; null: the whole run
    decay_rate: Annotated[float, Range(low=0, high=1), Formerly("lr_decay_rate")] = 0.5  # lavis_step: factor per epoch


@dataclass(frozen=True)
class Schedule:
    """Maps a step (the first is 0) to its learning rate."""

    config: ScheduleConfig
    peak_lr: float
    max_steps: int

    def __call__(self, step: int) -> float:
        shapes = {
            "cosine": cosine,
            "linear": linear,
            "constant": constant,
            "lavis_cosine": lavis_cosine,
            "lavis_step": lavis_step,
        }
        return shapes[self.config.kind](self, step)


def cosine(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then half a cosine from its end to the end of the run, without a jump between them."""
    warmup = schedule.config.warmup_steps
    if step < warmup:
        return _warmup(schedule, step)
    return _half_cosine(schedule, step - warmup, schedule.max_steps - warmup)


def linear(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then a straight line from its end to the end of the run. Source: get_linear_schedule_with_warmup
    of transformers, with `warmup_lr: 0`"""
    warmup, low = schedule.config.warmup_steps, schedule.config.min_lr
    if step < warmup:
        return _warmup(schedule, step)
    return low + (schedule.peak_lr - low) * (schedule.max_steps - step) / max(schedule.max_steps - warmup, 1)


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


def build_optimizer(parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over named parameters; the runner sets the learning rate before every step.

    raises  ValueError if there is no trainable parameter; ConfigError for groups that do not fit the names
    """
    if not parameters:
        raise ValueError("no parameter is trainable; set model.trainable, for example to ['bridges.*']")
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, group in groups_of(config.groups, list(parameters)).items():
        own = None if group is None else group.weight_decay
        decay = _default_decay(parameters[name], config) if own is None else own
        found.setdefault((1.0 if group is None else group.scale(config.lr), decay), []).append(parameters[name])
    groups: list[dict[str, Any]] = [
        {"params": own, "lr_scale": scale, "weight_decay": decay} for (scale, decay), own in found.items()
    ]
    settings: dict[str, Any] = {"lr": config.lr, "betas": (config.betas[0], config.betas[1]), "eps": config.eps}
    return _kind(config)(groups, **settings)


def _default_decay(parameter: nn.Parameter, config: OptimizerConfig) -> float:
    return config.weight_decay if config.decay_vectors or parameter.ndim > 1 else 0.0


def _kind(config: OptimizerConfig) -> type[torch.optim.Optimizer]:
    if config.kind == "adamw":
        return torch.optim.AdamW
    from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit


def kind_problems(config: OptimizerConfig, device: str, parallel: str) -> Iterator[Problem]:
    """A problem when the moments cannot be in 8 bits. device: auto, cpu or cuda; parallel: run.parallel"""
    if config.kind != "adamw_8bit":
        return
    path = "run.optimizer.kind"
    if parallel != "replicate":
        message = "is adamw_8bit, whose moments cannot be spread over ranks"
        yield Problem(path, message, hint="use adamw, or run.parallel: replicate")
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if reason := bitsandbytes_obstacle(8, chosen):
        yield Problem(path, f"is adamw_8bit, which is not available: {reason}", hint="or use kind: adamw")


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups, each with its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def learning_rates(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """Parameter name -> the learning rate of the last step."""
    rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    return {name: rates[id(p)] for name, p in parameters.items()}


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, dict]:
    """Parameter name -> its moments. Names, unlike positions, are independent of the order of parameters."""
    return {name: dict(optimizer.state[p]) for name, p in parameters.items() if p in optimizer.state}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, dict]
) -> None:
    """Restore what `optimizer_state` returned.

    raises  ValueError with the parameters that only one side has, or for moments of another kind of optimizer
    """
    if unknown := sorted(state.keys() - parameters.keys()):
        raise ValueError(f"the optimizer state has parameters that are not trainable now: {', '.join(unknown[:10])}")
    if state and (missing := sorted(parameters.keys() - state.keys())):
        raise ValueError(f"the optimizer state lacks parameters that are trainable now: {', '.join(missing[:10])}")
    if wrong := _other_kind(optimizer, state):
        raise ValueError(wrong)
    for name, entries in state.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {key: _placed(key, value, parameter) for key, value in entries.items()}


def _other_kind(optimizer: torch.optim.Optimizer, state: Mapping[str, dict]) -> str | None:
    """The mistake when the moments are of AdamW and the optimizer keeps them in 8 bits, or the reverse."""
    kinds = {"exp_avg": "adamw", "state1": "adamw_8bit"}
    now = "adamw" if isinstance(optimizer, torch.optim.AdamW) else "adamw_8bit"
    then = next((kind for entries in state.values() for key, kind in kinds.items() if key in entries), now)
    same = "resume with the same kind, or start from the weights alone with run.init_from"
    return None if then == now else f"the moments are those of {then}, run.optimizer.kind is {now}; {same}"


def _placed(key: str, value: Any, parameter: nn.Parameter) -> Any:
    """On the device of the optimizer: AdamW's step counter is on the CPU or a number, moments are on the parameter's
    device. Moments in 8 bits keep their dtype, and so do the tables and scales beside them."""
    if not isinstance(value, torch.Tensor):
        return value
    if key == "step":
        return value.clone()
    return value.to(
        parameter.device,
        parameter.dtype if value.shape == parameter.shape and value.is_floating_point() else value.dtype,
    )


def _warmup(schedule: Schedule, step: int) -> float:
    config = schedule.config
    rise = (schedule.peak_lr - config.warmup_lr) * step / max(config.warmup_steps, 1)
    return min(schedule.peak_lr, config.warmup_lr + rise)


def _half_cosine(schedule: Schedule, step: int, steps: int) -> float:
    low = schedule.config.min_lr
    return low + (schedule.peak_lr - low) * 0.5 * (1.0 + math.cos(math.pi * step / max(steps, 1)))


def _epoch_steps(schedule: Schedule) -> int:
    return schedule.config.epoch_steps or schedule.max_steps
