"""Learning rates as functions of the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from chatbridge.runners.optim import Schedule, ScheduleConfig
from tests.parity.golden import Check

KINDS = {"linear_warmup_cosine_lr": "lavis_cosine", "linear_warmup_step_lr": "lavis_step"}


def lr_schedule(check: Check) -> None:
    for case in check.golden.about["cases"]:
        rate, per_epoch = _schedule(case["params"], KINDS[case["scheduler"]])
        for epoch, step, want in case["points"]:
            check.rate(f"{case['scheduler']} at {epoch}/{step}", rate(epoch * per_epoch + step), want)


def minigpt4_lr(check: Check) -> None:
    for case in check.golden.about["cases"]:
        rate, per_epoch = _schedule(case["config"], "lavis_cosine")
        for point in case["values"]:
            got = rate(point["epoch"] * per_epoch + point["iter"])
            check.rate(f"{case['name']} at {point['epoch']}/{point['iter']}", got, point["lr"])


def _schedule(params: Mapping[str, Any], kind: Any) -> tuple[Callable[[int], float], int]:
    """Return the rate by step, and the steps per epoch, which the reference's step schedule does not use. Missing
    parameters have the defaults of the reference's schedulers (a negative start: no separate warm-up rate)."""
    start = params.get("warmup_start_lr", params.get("warmup_lr", -1))
    per_epoch = params.get("iters_per_epoch", 100_000)
    config = ScheduleConfig(
        kind=kind,
        warmup_steps=params.get("warmup_steps", 0),
        warmup_lr=start if start >= 0 else params["init_lr"],
        min_lr=params["min_lr"],
        epoch_steps=per_epoch,
        decay_rate=params.get("decay_rate", 1.0),
    )
    return Schedule(config, params["init_lr"], params["max_epoch"] * per_epoch), per_epoch
