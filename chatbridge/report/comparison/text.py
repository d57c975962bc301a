"""A comparison as a table for a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatbridge.common.text_table import text_table
from chatbridge.report.comparison.items import Side
from chatbridge.report.comparison.task import ScoreComparison, TaskComparison
from chatbridge.tasks.score_text import difference_interval_text, difference_text, known, p_text, score_text

HEAD = ("", "A", "B", "B - A", "95% interval", "p", "B better", "B worse", "equal", "p of items", "")
MANY = 5  # comparisons from which a p below 0.05 is expected by chance
VERDICTS = {"A": "A is better", "B": "B is better", "": "no difference shown"}
TOO_FEW = "too few items"


def comparison_text(tasks: Sequence[TaskComparison]) -> str:
    """The tables of all tasks, with what they do not compare."""
    parts = [_task_text(task) for task in tasks]
    if (tests := num_tests(tasks)) >= MANY:
        parts.append(
            f"{tests} tests without a correction: about {0.05 * tests:.1f} of them have p < 0.05 by chance alone"
        )
    return "\n\n".join(parts)


def num_tests(tasks: Sequence[TaskComparison]) -> int:
    """How many intervals there are."""
    lines = [
        line for task in tasks for line in (*task.scores, *(one for by in task.groups.values() for one in by.values()))
    ]
    return sum(line.is_enough for line in lines)


def _task_text(task: TaskComparison) -> str:
    rows = [(line.name, *cells(line)) for line in task.scores]
    for field, groups in task.groups.items():
        rows += [(f"  {field} {value} ({line.count})", *cells(line)) for value, line in groups.items()]
    return "\n".join([f"{task.name}: {coverage(task)}", text_table(HEAD, rows)])


def coverage(task: TaskComparison) -> str:
    """ "500 items", with the numbers of those that only one side has."""
    alone = [f"{len(ids)} only in {name}" for name, ids in (("A", task.only_a), ("B", task.only_b)) if ids]
    note = f"; not compared: {', '.join(alone)}" if alone else ""
    unread = [
        f"{count} in {name}"
        for name, side in (("A", task.a), ("B", task.b))
        if (count := sum(item.problem is not None for item in side.items))
    ]
    unread_note = f"; unreadable, counted as wrong: {', '.join(unread)}" if unread else ""
    return f"{task.count} common item{'' if task.count == 1 else 's'}{note}{unread_note}"


def cells(line: ScoreComparison) -> tuple[str, ...]:
    """The cells of `HEAD` after the name."""
    return (
        score_text(line.a, line.unit, 2),
        score_text(line.b, line.unit, 2),
        difference_text(line.paired.difference, line.unit),
        difference_interval_text(line.paired.low, line.paired.high, line.unit),
        p_text(line.paired.p),
        str(line.outcomes.better_b),
        str(line.outcomes.better_a),
        str(line.outcomes.equal),
        p_text(line.outcomes.p),
        verdict(line),
    )


def verdict(line: ScoreComparison) -> str:
    """In words: which system is better, beyond what the choice of items explains."""
    return VERDICTS[line.better] if line.is_enough else TOO_FEW


def comparison_json(
    a: str, b: str, tasks: Sequence[TaskComparison], settings: Mapping[str, Sequence[str]], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """The whole comparison; numbers that are not known are null.

    settings   name -> its values in A and in B, of those that differ
    """
    return {
        "a": a,
        "b": b,
        "settings": {name: list(values) for name, values in settings.items()},
        "notes": list(notes),
        "tasks": {task.name: _task_json(task) for task in tasks},
    }


def _task_json(task: TaskComparison) -> dict[str, Any]:
    return {
        "items": task.count,
        "only_a": list(task.only_a),
        "only_b": list(task.only_b),
        "unreadable": {"a": _unreadable(task.a), "b": _unreadable(task.b)},
        "scores": {line.name: _line_json(line) for line in task.scores},
        "groups": {
            field: {value: _line_json(line) for value, line in groups.items()} for field, groups in task.groups.items()
        },
        "changed": [{"id": one.item_a.id, "a": one.a, "b": one.b} for one in task.changed],
    }


def _unreadable(side: Side) -> int:
    return sum(item.problem is not None for item in side.items)


def _line_json(line: ScoreComparison) -> dict[str, Any]:
    return {
        "a": known(line.a),
        "b": known(line.b),
        "unit": line.unit,
        "difference": known(line.paired.difference),
        "low": known(line.paired.low),
        "high": known(line.paired.high),
        "p": known(line.paired.p),
        "b_better": line.outcomes.better_b,
        "b_worse": line.outcomes.better_a,
        "equal": line.outcomes.equal,
        "p_of_items": known(line.outcomes.p),
        "test_of_items": "sign of groups" if line.is_grouped else "mcnemar" if line.is_right_or_wrong else "sign",
        "items": line.count,
        "units": line.units,
        "better": line.better or None,
    }
