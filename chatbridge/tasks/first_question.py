"""Checks of a task before anything is generated: that its ids differ, and that its metrics fit its data.

A metric of another kind of task is found with the first question that can be read, in place of after hours of answers.
"""

from __future__ import annotations

from collections.abc import Iterator

from chatbridge.common import seeds
from chatbridge.common.errors import DataError, MediaError, Problem
from chatbridge.datasets.remote_shards.permissions import no_remote_access
from chatbridge.tasks.base import Task
from chatbridge.tasks.metrics.base import Item
from chatbridge.tasks.prompt import question_of
from chatbridge.tasks.scoring import scores_of

MOST_TRIED = 8  # questions, of which the first that can be read is used


def task_problems(task: Task) -> Iterator[Problem]:
    """Problems of a task whose data set is open, by settings of the task. Reads no remote file and no media."""
    yield from _repeated_id(task)
    yield from _dropped(task)
    if (item := _first_item(task)) is None:
        return
    for name, metric in task.metrics.items():
        try:
            if metric.checks_alone and metric.needs <= {"references"}:
                scores_of(name, metric, [item])
            else:
                metric.check(item)
        except DataError as error:
            hint = "choose another metric, or the data that it is for"
            yield Problem("metrics", f"{name} cannot score the first question: {error}", hint=hint)


def _dropped(task: Task) -> Iterator[Problem]:
    """Modalities that are removed from questions which never have them."""
    there = tuple(sorted(task.dataset.modalities))
    for name in task.config.drop_media:
        if name not in there:
            message = f"removes {name}, which the questions do not have: they have {', '.join(there) or 'no media'}"
            yield Problem("drop_media", message, allowed=there, hint="remove it: the scores are those with all media")


def _repeated_id(task: Task) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index in range(len(task.dataset)):
        key = task.dataset.sample_id(index)
        if first.setdefault(key, index) != index:
            message = f"its questions {first[key]} and {index} have the same id {key!r}, by which scores are kept"
            yield Problem("dataset", message, hint="give every question an id of its own")
            return


def _first_item(task: Task) -> Item | None:
    """A question without an answer, as a metric reads it; None if none of the first can be read."""
    for index in range(min(MOST_TRIED, len(task.dataset))):
        try:
            with no_remote_access():
                record = task.dataset.record(index, seeds.stream(0, f"task/{task.name}", index))
            _, answer = question_of(record.conversation)
        except (DataError, MediaError):
            continue
        references = record.references or ((answer,) if answer.strip() else ())
        return Item(record.id, "", tuple(references), record.details)
    return None
