"""The scores of each prompt of a task that asks every question with several.

Entries of metrics.json of another shape are left out: a file may come from another version or person.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from chatbridge.report.runs import Runs, TaskRun
from chatbridge.report.score_lines import unit_of
from chatbridge.report.tables import number, section, table, table_row, task_title
from chatbridge.tasks.score_text import difference_text, is_score, score_text

LEAD = """Every question was asked with each of these prompts. The spread is the standard deviation over the prompts;
differences within it tell nothing about two models."""


def prompts_section(runs: Runs) -> str:
    """HTML of the scores by prompt of all tasks; "" if no task has several."""
    cards = "".join(_task(task) for task in runs.complete)
    return section("prompts", "Prompts", LEAD, cards) if cards else ""


def _task(task: TaskRun) -> str:
    found = task.metrics.get("prompts")
    texts, scores = (found.get("texts"), found.get("scores")) if isinstance(found, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(scores, dict):
        return ""
    spreads = {str(name): one for name, one in scores.items() if _is_spread(one, len(texts))}
    if not spreads:
        return ""
    units = {name: unit_of(task.metrics, name) for name in spreads}
    values = {str(text): [one["each"][at] for one in spreads.values()] for at, text in enumerate(texts)}
    values["mean"] = [one["mean"] for one in spreads.values()]
    rows = [
        table_row(html.escape(text), (number(score_text(*pair)) for pair in zip(line, units.values(), strict=True)))
        for text, line in values.items()
    ]
    spread = (number(difference_text(one["deviation"], units[name]).lstrip("+")) for name, one in spreads.items())
    rows.append(table_row("spread", spread))
    head = ("", *(f"{html.escape(name)}:n" for name in spreads))
    return f'<h3 class="kind">{task_title(task)}</h3>{table(head, rows)}'


def _is_spread(one: Any, count: int) -> bool:
    """Whether this is the entry of a score: `each`, `mean` and `deviation`."""
    each = one.get("each") if isinstance(one, Mapping) else None
    is_list = isinstance(each, list) and len(each) == count and all(map(is_score, each))
    return is_list and all(is_score(one.get(key)) for key in ("mean", "deviation"))
