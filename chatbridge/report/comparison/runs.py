"""All tasks that two runs have in common, compared, and what the runs were made with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from chatbridge.common.errors import DataError, nearest, some
from chatbridge.report.comparison.receipts import compare_receipts
from chatbridge.report.comparison.sides import (
    Chosen,
    ComparedRun,
    ComparedTask,
    corpus_notes,
    costly_scores,
    sides,
    stored_scores,
)
from chatbridge.report.comparison.task import NotScored, TaskComparison, compare_task
from chatbridge.report.run_differences import flat_settings
from chatbridge.tasks.metrics.base import Item
from chatbridge.tasks.statistics import RESAMPLES

NOT_SET, TASKS, ALL_MEDIA = "(not set)", "evaluation.tasks.", "all media"
LEFT_OUT = ("run.output_dir",)  # settings that differ on purpose


@dataclass(frozen=True)
class How:
    """What the user asks for; None: as the settings of a task say."""

    metrics: Chosen | None = None
    group_by: Sequence[str] | None = None
    resample_by: Sequence[str] | None = None
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True)
class RunComparison:
    """Two runs.

    settings   name -> its values in a and in b, of those that differ: of the receipts, which hold all that the numbers
               depend on, or of resolved.yaml if a side has none
    notes      what a reader must know to judge the numbers
    """

    a: ComparedRun
    b: ComparedRun
    tasks: tuple[TaskComparison, ...]
    settings: Mapping[str, tuple[str, str]]
    notes: tuple[str, ...]


def compare_runs(a: ComparedRun, b: ComparedRun, how: How) -> RunComparison:
    """Compare the tasks of both runs. Two files are compared whatever the names of their tasks.

    raises   DataError if no task is common, or the items of one do not fit
    """
    found, unscored = [], []
    for pair in _pairs(a, b):
        try:
            found.append((pair, _compared(*pair, how)))
        except NotScored as error:
            unscored.append(error)
    if not found:
        raise DataError("; ".join(map(str, unscored)))
    pairs, tasks = [pair for pair, _ in found], tuple(task for _, task in found)
    receipts = compare_receipts(a, b, pairs)
    settings = _conditions(pairs) | dict(receipts.rows if receipts.is_whole else _setting_differences(a, b, pairs))
    notes = (*map(str, unscored), *receipts.notes, *_notes(a, b, pairs, tasks, receipts.equal, how))
    return RunComparison(a, b, tasks, settings, tuple(notes))


def _names(pairs: Sequence[tuple[ComparedTask, ComparedTask]]) -> set[str]:
    return {one.name for pair in pairs for one in pair}


def _pairs(a: ComparedRun, b: ComparedRun) -> list[tuple[ComparedTask, ComparedTask]]:
    common = [name for name in a.tasks if name in b.tasks]
    if common:
        return [(a.tasks[name], b.tasks[name]) for name in common]
    if len(a.tasks) == len(b.tasks) == 1 and (a.is_file or b.is_file):
        return [(next(iter(a.tasks.values())), next(iter(b.tasks.values())))]
    raise DataError(
        f"{a.label} and {b.label} have no task in common: {some(a.tasks, 10)}, and {some(b.tasks, 10)}; "
        f"name two files, for example {a.label}/predictions_{next(iter(a.tasks))}.jsonl"
    )


def _compared(a: ComparedTask, b: ComparedTask, how: How) -> TaskComparison:
    task = a.task or b.task
    of_task = (task.config.group_by, task.config.resampled_together) if task else ((), ())
    known = {str(name) for one in (a, b) for item in one.items for name in item.details}
    group_by = _fields("--group-by", how.group_by, of_task[0], known, a.name)
    resample_by = (
        of_task[1] if how.resample_by is None else _fields("--resample-by", how.resample_by, (), known, a.name)
    )
    first, second = sides(a, b, how.metrics)
    return compare_task(first, second, group_by, resample_by, how.resamples, how.seed)


def _fields(
    option: str, asked: Sequence[str] | None, of_task: Sequence[str], known: set[str], task: str
) -> tuple[str, ...]:
    """Annotation fields: those asked for, or those of the task's settings that the items have."""
    if asked is None:
        return tuple(name for name in of_task if name in known)
    for name in asked:
        if name not in known:
            close = nearest(name, known)
            hint = f"; did you mean {close}?" if close else ""
            listed = some(sorted(known), 20) or "none"
            raise DataError(f"{option} {name}: no item of {task} has this field in its details{hint} It has: {listed}")
    return tuple(asked)


def _conditions(pairs: Sequence[tuple[ComparedTask, ComparedTask]]) -> dict[str, tuple[str, str]]:
    """The conditions of modality reports, where they differ."""
    return {
        f"{one.base}, condition": (one.condition or ALL_MEDIA, other.condition or ALL_MEDIA)
        for one, other in pairs
        if one.condition != other.condition
    }


def _setting_differences(
    a: ComparedRun, b: ComparedRun, pairs: Sequence[tuple[ComparedTask, ComparedTask]]
) -> dict[str, tuple[str, str]]:
    """Settings that differ, of the run and of the compared tasks, whatever their names."""
    if not (a.settings and b.settings):
        return {}
    first, second = flat_settings(a.settings), flat_settings(b.settings)
    names = dict.fromkeys(name for name in (*first, *second) if name not in LEFT_OUT and not name.startswith(TASKS))
    rows = {name: (first.get(name, NOT_SET), second.get(name, NOT_SET)) for name in names}
    for one, other in pairs:
        mine, its = flat_settings(one.node), flat_settings(other.node)
        for name in dict.fromkeys([*mine, *its]):
            rows[f"{TASKS}{one.name}.{name}"] = (mine.get(name, NOT_SET), its.get(name, NOT_SET))
    return {name: values for name, values in rows.items() if values[0] != values[1]}


def _notes(
    a: ComparedRun,
    b: ComparedRun,
    pairs: Sequence[tuple[ComparedTask, ComparedTask]],
    tasks: Sequence[TaskComparison],
    equal: Sequence[str],
    how: How,
) -> Iterator[str]:
    for name, run, other in (("A", a, b), ("B", b, a)):
        if lone := [task for task in run.tasks if task not in other.tasks and task not in _names(pairs)]:
            yield f"only in {name}, not compared: {', '.join(lone)}"
    for first, second in pairs:
        if not (first.has_answers and second.has_answers):
            yield from (*corpus_notes(first), *corpus_notes(second))
        if first.node and second.node and _repeated(first) != _repeated(second):
            yield f"{first.name}: the metrics of A and B differ; both are scored with those of A"
        absent = set(costly_scores(first.task or second.task)) - set(stored_scores(first, second))
        if absent and how.metrics is None:
            yield f"{first.name}: {', '.join(sorted(absent))} are left out: not in the files of scores of both sides"
    for task in tasks:
        if task.name in equal and (given := sum(x.prediction != y.prediction for x, y in _common(task))):
            yield f"{task.name}: {given} answers differ although the receipts are the same: was the same device used?"
        for name, place in (("A", 0), ("B", 1)):
            lent = sum(not pair[place].references and bool(pair[1 - place].references) for pair in _common(task))
            if lent and task.a.items[0].row and task.b.items[0].row:  # a file of scores needs none
                yield f"{task.name}: {lent} items of {name} have no references; those of the other side are used"
        asked = [(x.row.get("question"), y.row.get("question")) for x, y in _common(task)]
        if other := sum(x != y for x, y in asked if x is not None and y is not None):
            yield f"{task.name}: {other} of {task.count} common items were asked with another text"


def _repeated(one: ComparedTask) -> str:
    """The metrics with which answers are scored again, as text."""
    task = one.task
    if task is None:
        return ""
    again = {name: task.config.metric_settings[name] for name, metric in task.metrics.items() if not metric.is_costly}
    return json.dumps([again, task.main_metric], default=str)


def _common(task: TaskComparison) -> Iterable[tuple[Item, Item]]:
    of_b = {item.id: item for item in task.b.items}
    return ((item, of_b[item.id]) for item in task.a.items if item.id in of_b)
