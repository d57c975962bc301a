"""Scores of given answers, as the evaluation makes them from a file of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatbridge.tasks import Task


def results_of(task: Task, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The entry of metrics.json."""
    return task.results(task.scored(rows))


def scores_of(task: Task, prediction: str, references: Sequence[str], details: Mapping[str, Any]) -> dict[str, float]:
    """Name -> score of one answer."""
    row = {"id": "a", "prediction": prediction, "references": list(references), "details": dict(details)}
    return {name: values["a"] for name, values in task.scored([row]).per_item().items() if values}


def scores_of_row(task: Task, rows: Sequence[dict[str, Any]], at: int) -> dict[str, float]:
    """Name -> score of one of several answers."""
    key = str(rows[at]["id"])
    return {name: values[key] for name, values in task.scored(rows).per_item().items() if key in values}
