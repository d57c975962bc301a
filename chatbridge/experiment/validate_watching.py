"""Problems of validation, best checkpoint and early end, between the sections of a training file."""

from __future__ import annotations

from collections.abc import Iterator

from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.config.schema import Choice
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.experiment.training_tasks import tasks_during_training
from chatbridge.runners.config import RunConfig
from chatbridge.tasks.base import Task
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.metric_settings import built_metrics, score_names


def watching_problems(data: DataConfig, run: RunConfig, evaluation: EvaluationConfig) -> Iterator[Problem]:
    """Scores that would never be measured, or that do not exist."""
    validated = [name for name, number in data.held_out.items() if number]
    if run.validate_every is not None and not validated:
        hint = "hold out samples of every source: data.validation.samples=64; or of one: data.sources.<name>.validation"
        yield Problem("run.validate_every", "is set, but no sample is held out for it", hint=hint)
    if "loss" in validated:
        message = "validation/loss is the name of the loss over all sources; choose another name for this source"
        yield Problem("data.sources.loss", message)
    yield from evaluate_problems(run, evaluation)
    yield from later_problems(run, evaluation)
    yield from best_problems(data, run, evaluation)


def best_problems(data: DataConfig, run: RunConfig, evaluation: EvaluationConfig) -> Iterator[Problem]:
    """A best checkpoint or an early end by a score that this run does not measure."""
    if (best := run.best_by) is None:
        return
    asked = tasks_during_training(run, evaluation)
    path = "run.best.metric" if run.best is not None else "run.patience"
    names = (
        *validation_scores(data),
        *(f"{name}/{score}" for name in asked for score in scores_of(asked[name]) or ["..."]),
    )
    guess = nearest(best.metric, names)
    unknown = Problem(path, f"{best.metric!r} is not a score of this run", allowed=names, nearest=guess)
    task, _, score = best.metric.partition("/")
    if best.is_validation:
        if best.metric not in names:
            yield unknown
        elif run.validate_every is None:
            hint = "set run.validate_every, the steps between validations"
            yield Problem(path, f"is {best.metric}, which is not measured: run.validate_every is not set", hint=hint)
    elif task in evaluation.tasks and task not in asked:
        message = f"is {best.metric}, but run.evaluate.tasks leaves out {task!r}, so it is not measured"
        yield Problem(path, message, hint=f"add {task!r} to run.evaluate.tasks")
    elif task not in asked or not score or score not in (scores_of(asked[task]) or (score,)):
        yield unknown
    elif evaluation.every is None and (run.evaluate is None or run.evaluate.every is None):
        message = f"is {best.metric}, which is measured after the last step only: run.evaluate.every is not set"
        yield Problem(path, message, hint="set run.evaluate.every (or evaluation.every), the steps between evaluations")


def validation_scores(data: DataConfig) -> tuple[str, ...]:
    """Names of the losses on held-out samples: over all sources, of each stream and of each source."""
    validated = [name for name, number in data.held_out.items() if number]
    streams = dict.fromkeys(f"stream/{stream}" for name, stream in data.stream_of.items() if name in validated)
    return tuple(f"validation/{name}" for name in ("loss", *streams, *validated))


def evaluate_problems(run: RunConfig, evaluation: EvaluationConfig) -> Iterator[Problem]:
    """Slices of tasks that do not exist."""
    if run.evaluate is None:
        return
    names = tuple(evaluation.tasks)
    if not names:
        hint = "name them in evaluation.tasks, or take them in: base: [..., tasks/coco_caption.yaml]"
        yield Problem("run.evaluate", "is set, but evaluation.tasks names no task", hint=hint)
        return
    for name in run.evaluate.tasks:
        if name not in names:
            message = f"there is no task named {name!r} in evaluation.tasks"
            yield Problem("run.evaluate.tasks", message, allowed=names, nearest=nearest(name, names))


def later_problems(run: RunConfig, evaluation: EvaluationConfig) -> Iterator[Problem]:
    """Metrics that would end the training at its first evaluation, since nobody has graded its answers."""
    for name, task in tasks_during_training(run, evaluation).items():
        try:
            metrics = built_metrics(task.config.metric_settings)
        except ConfigError:  # reported with the task
            continue
        for metric in (one for one, part in metrics.items() if part.scores_later):
            message = f"{metric} scores answers from a file that is made of them afterwards, not during a training"
            hint = f"leave {metric} out, and score a folder of the training's evaluation/ with it"
            yield Problem(f"evaluation.tasks.{name}.metrics", message, hint=hint)


def scores_of(task: Choice[Task]) -> tuple[str, ...]:
    """Names of the scores of a task, known before its data are; () if it names no metric."""
    return score_names(task.config.metric_settings)


def stream_problems(run: RunConfig, mixture: Mixture) -> Iterator[Problem]:
    """Validation of sources that can hold out nothing, known once they are open."""
    held = {name for name, indices in mixture.held_out.items() if len(indices)}
    reason = "its samples come as a stream (remote shards), from which none can be held out"
    if run.validate_every is not None and not held:
        yield Problem("run.validate_every", f"no source can be validated on: of each, {reason}")
    best = run.best_by
    name = best.metric.partition("/")[2] if best is not None and best.is_validation else ""
    if best is not None and name in mixture.sources and name not in held:
        others = ", ".join(f"validation/{one}" for one in sorted(held)) or "a task"
        hint = f"name another score, for example {others}"
        yield Problem("run.best.metric", f"is {best.metric}, but {reason}", hint=hint)
