"""Tables of the groups of a task: the subjects of MME, the categories of MMBench, with sums and kinds of answers.

Groups with a confusion matrix are shown there. Entries of another shape are left out: a metrics.json may come from
another version or person.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from chatbridge.report.charts import bar
from chatbridge.report.run_files import is_number
from chatbridge.report.runs import Runs, TaskRun
from chatbridge.report.tables import note, number, section, table, table_row, task_title

LEAD = "Scores of each group, and how its answers were read. Incorrect answers include the unreadable ones."
NOT_SCORES = ("count", "unreadable")


@dataclass(frozen=True)
class Line:
    """The results of one group.

    scores   name -> fraction
    totals   name -> number that is not a fraction: the score of a subject of MME
    answers  kind of answer -> how many
    """

    name: str
    scores: Mapping[str, float]
    totals: Mapping[str, float]
    answers: Mapping[str, int]
    count: int
    unreadable: int


@dataclass(frozen=True)
class GroupTable:
    """The groups of a task by one field of its annotations; `whole` is the task itself."""

    title: str
    field: str
    whole: Line
    lines: tuple[Line, ...]


def group_tables(runs: Runs) -> list[GroupTable]:
    """A table per scored task and field of `group_by` whose groups have no confusion matrix."""
    return [found for task in runs.scored for found in _tables(task)]


def _tables(task: TaskRun) -> Iterator[GroupTable]:
    for field, groups in _mapping(task.metrics.get("by")).items():
        found = {str(name): group for name, group in _mapping(groups).items() if isinstance(group, dict)}
        if found and not any("confusion" in group for group in found.values()):
            lines = tuple(_line(name, group) for name, group in found.items())
            yield GroupTable(task_title(task), str(field), _line("all", task.metrics), lines)


def _line(name: str, found: Mapping[str, Any]) -> Line:
    scores = {key: value for key, value in found.items() if is_number(value) and key not in NOT_SCORES}
    counts = [found.get(key, 0) for key in NOT_SCORES]
    count, unreadable = (int(value) if is_number(value) else 0 for value in counts)
    return Line(name, scores, _numbers(found.get("totals")), _numbers(found.get("answers")), count, unreadable)


def _numbers(value: Any) -> dict[str, Any]:
    return {str(key): one for key, one in _mapping(value).items() if is_number(one)}


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}


def groups_section(tables: list[GroupTable]) -> str:
    """HTML of all tables; "" without one."""
    cards = "".join(
        f'<h3 class="kind">{one.title} <span class="quiet">· {html.escape(one.field)}</span></h3>{_html(one)}'
        for one in tables
    )
    return section("groups", "Groups", LEAD, cards) if cards else ""


def _html(one: GroupTable) -> str:
    lines = (*one.lines, one.whole)
    scores = list(dict.fromkeys(key for line in lines for key in line.scores))
    totals = list(dict.fromkeys(key for line in one.lines for key in line.totals))
    answers = list(dict.fromkeys(key for line in lines for key in line.answers))
    head = ("", *(f"{html.escape(key)}:2" for key in scores), *(f"{html.escape(key)}:n" for key in (*totals, *answers)),
            "questions:n")  # fmt: skip
    rows = (table_row(html.escape(line.name), _cells(line, scores, totals, answers)) for line in lines)
    sums = " · ".join(f"{html.escape(key)} {value:,.1f}" for key, value in one.whole.totals.items())
    return table(head, rows) + (note(sums) if sums else "")


def _cells(line: Line, scores: list[str], totals: list[str], answers: list[str]) -> Iterator[str]:
    for key in scores:
        value = line.scores.get(key)
        yield from ("<td></td>", "<td></td>") if value is None else (number(f"{value:.1%}"), f"<td>{bar(value)}</td>")
    for key in totals:
        yield number(f"{line.totals[key]:.1f}" if key in line.totals else "")
    for key in answers:
        yield number(str(line.answers.get(key, "")))
    yield number(f"{line.count}" + (f" ({line.unreadable} unreadable)" if line.unreadable else ""))
