"""What `run.parallel: shard` requires of the model and of the start of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.models.config import ModelConfig
from chatbridge.models.language._sharded_units import units_obstacle
from chatbridge.runners.config import RunConfig, ShardingConfig, ranks_planned

REPLICATE = "or set run.parallel to replicate"


def sharding_problems(model: ModelConfig, run: RunConfig) -> Iterator[Problem]:
    """Settings that shard cannot combine, and settings of it that have no effect; from the configuration alone."""
    if run.parallel != "shard":
        if run.sharding != ShardingConfig():
            hint = "set run.parallel to shard, or remove run.sharding"
            yield Problem("run.sharding", f"has no effect: run.parallel is {run.parallel}", hint=hint)
        return
    if getattr(model.language.config, "load_in_8bit", False):
        hint = f"a model in 8 bit fits on one GPU more easily than its rows do: set it to false, {REPLICATE}"
        yield Problem("model.language.load_in_8bit", "cannot be combined with run.parallel: shard", hint=hint)
    for number, adapter in enumerate(model.adapters):
        if adapter.use_dora:
            message = "reads whole weights, which no rank has under run.parallel: shard"
            yield Problem(f"model.adapters[{number}].use_dora", message, hint=f"set it to false, {REPLICATE}")
    if run.sharding.offload == "cpu" and run.device == "cpu":
        message = "is cpu, but run.device is cpu already, so nothing would be moved"
        yield Problem("run.sharding.offload", message, hint="remove it")


def check_units(model: Any, run: RunConfig) -> None:
    """raises ConfigError when the language model, built with or without memory, has no layers that can be spread"""
    if run.parallel == "shard" and (reason := units_obstacle(model.language)) is not None:
        hint = f"choose another language model, {REPLICATE}"
        raise ConfigError([Problem("run.parallel", reason, hint=hint)])


def check_ranks(run: RunConfig) -> None:
    """raises ConfigError when a run that would start now has one rank, over which nothing can be spread"""
    if (note := ranks_note(run)) is not None:
        message, _, command = note.removeprefix("run.parallel ").partition("; ")
        raise ConfigError([Problem("run.parallel", message, hint=f"{command}, {REPLICATE}")])


def ranks_note(run: RunConfig) -> str | None:
    """What a check by one process reports about the start of this run; None: it may start like that."""
    if run.parallel != "shard" or ranks_planned() > 1:
        return None
    return (
        "run.parallel is shard, which needs at least 2 ranks, and this command has 1; start the run on all of them: "
        "torchrun --nproc-per-node 8 train.py --cfg-path ..."
    )
