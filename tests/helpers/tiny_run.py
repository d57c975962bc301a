"""A complete run with TinyModel, built as train.py does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from chatbridge.common.dist import Dist
from chatbridge.runners.checkpoint import Checkpointer, TrainState
from chatbridge.runners.config import RunConfig
from chatbridge.runners.optim import OptimizerConfig, Schedule, ScheduleConfig, build_optimizer
from chatbridge.runners.parallel.replicate import Replicated
from chatbridge.runners.progress import Progress
from chatbridge.runners.runner import Runner
from tests.helpers.tiny_parts import JointLoader, TinyLoader, TinyModel, trainable

GLOBAL_BATCH = 8  # 4 slices of 2 conversations


def tiny_runner(
    folder: Path,
    dist: Dist | None = None,
    model: nn.Module | None = None,
    loader: Any = None,
    streams: Mapping[str, float] | None = None,
    **run: Any,
) -> Runner:
    """A runner at step 0 of a run of 8 steps; `run` replaces settings, `streams` come with a JointLoader."""
    dist = dist or Dist()
    model = model or TinyModel(dropout=0.3)
    settings: dict[str, Any] = {
        "max_steps": 8,
        "accumulate": 4 // dist.world_size,
        "optimizer": OptimizerConfig(lr=0.05),
        "schedule": ScheduleConfig(warmup_steps=2, warmup_lr=0.01),
        "log_every": 1,
        "save_every": 4,
        **run,
    }
    config = RunConfig(output_dir=folder, **settings)
    optimizer = build_optimizer(trainable(model), config.optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    return Runner(
        model=model,
        loader=loader or (JointLoader if streams else TinyLoader)(dist.rank, dist.world_size, config.accumulate),
        optimizer=optimizer,
        schedule=Schedule(config.schedule, config.optimizer.lr, config.max_steps),
        parallel=Replicated(trainable(model), dist),
        checkpointer=Checkpointer(folder / "checkpoints", model, optimizer, dist, config.keep, {}),
        progress=Progress(folder, config.last_step, config.log_every, dist),
        evaluator=None,
        dist=dist,
        config=config,
        state=TrainState(step=0, seed=config.seed, global_batch=GLOBAL_BATCH),
        streams=streams,
    )


def resumed(runner: Runner) -> Runner:
    """The same runner with the state of its newest checkpoint."""
    latest = runner.checkpointer.latest()
    assert latest is not None
    runner.state = runner.checkpointer.load(latest)
    return runner
