"""The start of a run: log, first state or resumed state, equal weights on every rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from chatbridge.common import log
from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError, Problem, TrainingError, reported_at
from chatbridge.common.rendezvous import restart_count
from chatbridge.common.threads import use_threads
from chatbridge.experiment.opened import Opened
from chatbridge.experiment.training_tasks import asked_settings
from chatbridge.models.component_tensors import frozen_at_random
from chatbridge.models.fingerprints import fingerprint
from chatbridge.runners.best import has_restart_after, restart_tasks, restart_validation, restarted_tasks_after
from chatbridge.runners.checkpoint import Checkpointer, TrainState
from chatbridge.runners.config import ComputeConfig, RunConfig
from chatbridge.runners.rank_notes import take_earlier_end
from chatbridge.runners.resume import ResumePoint
from chatbridge.runners.run_folder import open_run_folder, read_resolved

logger = log.get_logger(__name__)


def start_log(run: ComputeConfig, dist: Dist, num_workers: int) -> None:
    """Write the log into the run folder, and set the threads of one operation."""
    log.setup(run.output_dir, dist.is_main, dist.rank)
    threads = use_threads(run.threads, num_workers)
    logger.info("%d thread%s per operation (run.threads)", threads, "s" * (threads > 1))
    if count := restart_count():
        logger.warning("restart %d by torchrun (TORCHELASTIC_RESTART_COUNT), after a rank failed", count)


def report_earlier_end(run: RunConfig) -> None:
    """Log what ended the start before this one, if it did not end by itself; call it on rank 0, with the lock of the
    run folder, before a rank trains."""
    if text := take_earlier_end(run.output_dir, is_restart=restart_count() > 0):
        logger.warning("the start before this one: %s", text)


def random_note(model: nn.Module, init_from: Path | None) -> str:
    """Which components are frozen at random values, the next step with it; "" where there is none.

    init_from   run.init_from, which may fill them
    """
    names = [] if init_from is not None else frozen_at_random(model)
    if not names:
        return ""
    key = "`weights`" + " (of the fusion: model.weights)" * ("fusion" in names)
    return (
        f"no weights file for {', '.join(names)}: frozen at random values, which checkpoints do not hold, so only this "
        f"run can use what it trains. Set {key}, or add the component to model.trainable"
    )


def check_same_start(model: nn.Module, dist: Dist) -> None:
    """raises TrainingError when the weights of a rank differ from those of the first one"""
    prints = dist.gather(fingerprint(model.state_dict()))
    if others := [rank for rank, one in enumerate(prints) if one != prints[0]]:
        raise TrainingError(
            f"the weights of ranks {others} differ from those of rank 0; do all machines read the same files?"
        )


def global_batch(run: RunConfig, world_size: int) -> int:
    """Conversations per step over all ranks and micro-batches."""
    return run.micro_batch * run.accumulate * world_size


def first_state(run: RunConfig, dist: Dist, sizes: Mapping[str, int]) -> TrainState:
    """The state of a run before its first step. sizes: source -> samples"""
    batch = global_batch(run, dist.world_size)
    return TrainState(step=0, seed=run.seed, global_batch=batch, sizes=dict(sizes))


def resumed_state(
    checkpointer: Checkpointer, point: ResumePoint, run: RunConfig, dist: Dist, sizes: Mapping[str, int]
) -> TrainState:
    """Load a checkpoint of this run.

    sizes   source -> samples
    raises  ConfigError when it does not fit, or when the order of the data would change: another number of
            conversations per step, or of samples. A checkpoint that run.resume names by its path may change both.
    """
    checkpoint = point.checkpoint
    for note in point.notes:
        logger.warning("%s", note)
    with reported_at("run.resume"):
        state = checkpointer.load(checkpoint)
    now = replace(state, global_batch=global_batch(run, dist.world_size), sizes=dict(sizes))
    problems = [*_changed_batch(checkpoint, state, run, dist), *_changed_sizes(checkpoint, state, now)]
    if problems and run.resume == "auto":
        raise ConfigError(problems)
    check_same_start(checkpointer.model, dist)
    for problem in problems:
        logger.warning("%s; the order of the data changes with it", problem.message)
    logger.info("resumes from %s", checkpoint)
    return now


def _changed_batch(checkpoint: Path, state: TrainState, run: RunConfig, dist: Dist) -> Iterator[Problem]:
    wanted = global_batch(run, dist.world_size)
    if state.global_batch != wanted:
        message = (
            f"{checkpoint} was written with {state.global_batch} conversations per step; now micro_batch "
            f"{run.micro_batch} x accumulate {run.accumulate} x {dist.world_size} ranks make {wanted}"
        )
        hint = (
            "change run.micro_batch or run.accumulate so that they multiply to the same number, "
            f"or resume with a different data order deliberately: run.resume={checkpoint}"
        )
        yield Problem("run.micro_batch", message, hint=hint)


def _changed_sizes(checkpoint: Path, state: TrainState, now: TrainState) -> Iterator[Problem]:
    """Sources whose files changed under the run. Checkpoints of earlier versions do not record the sizes."""
    for name, size in now.sizes.items():
        before = state.sizes.get(name, size)
        if before != size:
            message = f"had {before:,} samples when {checkpoint} was written, now it has {size:,}"
            hint = f"restore the files, or resume with a different data order deliberately: run.resume={checkpoint}"
            yield Problem(f"data.sources.{name}", message, hint=hint)


def open_run(run: RunConfig, opened: Opened[Any], point: ResumePoint | None, step: int) -> None:
    """Prepare the run folder for the step after `step`, see `open_run_folder`; call it on rank 0.

    A resume that run.resume names may hold out other samples: then validation counts from here on, and the log says so.
    """
    held_out = _held_out(opened.settings)
    then = _held_out(_settings_of(point.checkpoint, opened)) if point is not None else held_out
    is_changed = then != held_out or has_restart_after(run.output_dir, step)
    tasks = _changed_tasks(run, opened, point, step)
    open_run_folder(run.output_dir, opened.settings, step)
    if tasks:
        restart_tasks(run.output_dir, step, tasks)
        logger.warning(
            "%s: other questions, settings or metrics than before %s. Scores before and after it do not compare; by "
            "one of theirs, the best checkpoint and run.patience count from here on",
            ", ".join(tasks), point.checkpoint if point is not None else "",
        )  # fmt: skip
    if point is None or not is_changed:
        return
    numbers = {name: number for name, (number, _) in held_out.items()}
    restart_validation(run.output_dir, step, numbers)
    logger.warning(
        "other samples are held out than before %s (data.validation, data.sources.<name>.validation or run.seed). "
        "Validation losses before and after it are of different samples; those held out only now may have been trained "
        "on, so their losses may be too low. By a validation loss, the best checkpoint and run.patience count from "
        "here on. Held out now: %s",
        point.checkpoint, ", ".join(f"{name} {number}" for name, number in numbers.items()) or "none",
    )  # fmt: skip


def _settings_of(checkpoint: Path, opened: Opened[Any]) -> Mapping[str, Any]:
    """The settings that the run of a checkpoint had; those of now when they are not there or cannot be read."""
    try:
        return opened.completed(read_resolved(checkpoint.absolute().parents[1])) or opened.settings
    except ConfigError:
        return opened.settings


def _changed_tasks(run: RunConfig, opened: Opened[Any], point: ResumePoint | None, step: int) -> list[str]:
    """Tasks that a resumed run asks or scores differently, now or since a later step that it goes back before."""
    if point is None:
        return []
    then, now = asked_settings(_settings_of(point.checkpoint, opened)), asked_settings(opened.settings)
    changed = {name for name in now if name in then and now[name] != then[name]}
    return sorted((changed | restarted_tasks_after(run.output_dir, step)) & now.keys())


def _held_out(settings: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """source -> the number of its held-out samples and the seed that chooses them; without sources that have none."""
    common, seed = settings["data"]["validation"]["samples"], settings["run"]["seed"]
    own = {name: source.get("validation") for name, source in settings["data"]["sources"].items()}
    return {name: (number, seed) for name, one in own.items() if (number := common if one is None else one)}
