"""What a training evaluates: the tasks that run.evaluate chooses, on slices of their questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chatbridge.config.schema import Choice
from chatbridge.experiment.opened import Opened
from chatbridge.runners.config import RunConfig
from chatbridge.tasks.base import Task
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.metric_settings import built_metrics
from chatbridge.tasks.settings import FREE

NEUTRAL = {*FREE, "batch_size"} - {"metrics"}  # settings of a task that its scores do not depend on


def tasks_during_training(run: RunConfig, evaluation: EvaluationConfig) -> dict[str, Choice[Task]]:
    """Name -> the task as the training asks it: with at most run.evaluate.limit questions."""
    chosen = run.evaluate
    if chosen is None:
        return dict(evaluation.tasks)
    names = [name for name in evaluation.tasks if name in chosen.tasks or not chosen.tasks]
    return {name: _slice(evaluation.tasks[name], chosen.limit) for name in names}


def _slice(task: Choice[Task], limit: int | None) -> Choice[Task]:
    if limit is None:
        return task
    dataset = task.config.dataset
    own = dataset.config.limit
    limited = replace(dataset.config, limit=limit if own is None else min(own, limit))
    return replace(task, config=replace(task.config, dataset=replace(dataset, config=limited)))


def evaluation_note(run: RunConfig, evaluation: EvaluationConfig, tasks: Mapping[str, Task]) -> str:
    """A line for a plan: when the training evaluates which tasks, on how many questions; "" without tasks."""
    if not tasks:
        return ""
    every = (run.evaluate.every if run.evaluate is not None else None) or evaluation.every
    when = f"every {every} steps and after the last" if every is not None else "after the last step"
    asked = ", ".join(f"{name} ({len(task.dataset)} questions)" for name, task in tasks.items())
    return f"evaluated {when}: {asked}"


def with_best_mode(opened: Opened[Any]) -> Opened[Any]:
    """The same training where run.best.mode is min for a score of a task of which a lower value is better."""
    run: RunConfig = opened.config.run
    best = run.best
    if best is None or best.mode is not None or best.is_validation:
        return opened
    name, _, score = best.metric.partition("/")
    metrics = built_metrics(opened.config.evaluation.tasks[name].config.metric_settings)
    if not any(score in metric.lower_is_better for metric in metrics.values()):
        return opened
    settled = replace(run, best=replace(best, mode="min"))
    return replace(opened, parsed=replace(opened.config, run=settled))


def asked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluated task -> what its scores depend on besides the model, of the plain settings of a training."""
    chosen = settings["run"].get("evaluate") or {}
    names, limit = chosen.get("tasks"), chosen.get("limit")
    tasks = settings.get("evaluation", {}).get("tasks", {})
    return {
        name: [limit, {key: value for key, value in task.items() if key not in NEUTRAL}]
        for name, task in tasks.items()
        if not names or name in names
    }
