"""The modality report on the page: every task under every condition, and which modalities the answers depend on.

Entries of metrics.json of another shape are left out: a file may come from another version or person.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

from chatbridge.conversation.modalities import MODALITIES
from chatbridge.report.charts import bar
from chatbridge.report.runs import Runs, TaskRun
from chatbridge.report.score_lines import as_fraction
from chatbridge.report.tables import note, number, section, table, table_row, task_title
from chatbridge.tasks.score_text import difference_text, interval_text, is_percent, is_score, p_text, score_text

LEAD = """The same questions with a modality removed, exchanged for that of another question, or (audio and frames of a
video) moved against each other. <b>lost</b> is the score with all media minus the score of the line, with its paired
95% interval: a modality is used if exchanging it loses score beyond chance."""
FULL = "full"
NAMES = {"without": "without the {}", "shuffled": "{} of another question", "misaligned": "{} moved in time"}
VERDICTS = {"used": "met", "not shown": "quiet", "harmful": "missed"}  # -> class of the page


def modality_section(runs: Runs) -> str:
    """HTML of the modality reports of all tasks; "" if no task has one."""
    cards = "".join(_task(task, found) for task in runs.complete if (found := _report_of(task)))
    return section("modality-report", "Modality report", LEAD, cards) if cards else ""


def _report_of(task: TaskRun) -> Mapping[str, Any] | None:
    found = task.metrics.get("modalities")
    conditions = found.get("conditions") if isinstance(found, dict) else None
    is_whole = isinstance(conditions, dict) and any(isinstance(one, dict) for one in conditions.values())
    return found if is_whole else None


def _task(task: TaskRun, found: Mapping[str, Any]) -> str:
    unit = str(found.get("unit")) if found.get("unit") in ("percent", "number") else "fraction"
    lines = {name: line for name, line in found["conditions"].items() if isinstance(line, dict)}
    head = ("", f"{html.escape(str(found.get('metric', 'score')))}:2", "95% interval:n", "lost:n", "its interval:n",
            "p:n", "asked again:n", "other answers:n")  # fmt: skip
    rows = (
        table_row(html.escape(condition_title(name)), _cells(line, unit), name != FULL) for name, line in lines.items()
    )
    title = f'<h3 class="kind">{task_title(task)}</h3>'
    return title + _verdicts(found) + table(head, rows) + "".join(note(text) for text in _left_out(found))


def condition_title(name: str) -> str:
    """ "shuffled_audio" -> "audio of another question" """
    kind, _, modality = name.partition("_")
    if kind not in NAMES:
        return "all media" if name == FULL else name
    noun = MODALITIES.noun(modality) if modality in MODALITIES else modality
    return NAMES[kind].format(noun)


def _cells(line: Mapping[str, Any], unit: str) -> Iterator[str]:
    score = _number(line.get("score"))
    fraction = None if score is None or not is_percent(unit) else as_fraction(score, unit)
    yield number(score_text(score, unit))
    yield f"<td>{'' if fraction is None else bar(fraction)}</td>"
    yield number(interval_text(*_pair(line.get("interval")), unit))
    if "difference" not in line:
        yield "<td></td>" * 5
        return
    p = _number(line.get("p"))
    yield number(difference_text(_number(line.get("difference")), unit))
    yield number(interval_text(*_pair(line.get("difference_interval")), unit))
    yield number("" if p is None else html.escape(p_text(p)))
    for key in ("asked", "changed"):
        yield number(str(line[key]) if is_score(line.get(key)) else "")


def _verdicts(found: Mapping[str, Any]) -> str:
    """A word per modality, and the sentence of the report."""
    uses = found.get("uses")
    tags = [
        f'{html.escape(str(name))}: <span class="{kind}">{html.escape(str(one["verdict"]))}</span>'
        for name, one in (uses.items() if isinstance(uses, dict) else ())
        if isinstance(one, dict) and (kind := VERDICTS.get(str(one.get("verdict"))))
    ]
    summary = html.escape(str(found["summary"])) if isinstance(found.get("summary"), str) else ""
    parts = [part for part in (" · ".join(tags), summary) if part]
    return f"<p>{'. '.join(parts)}.</p>" if parts else ""


def _left_out(found: Mapping[str, Any]) -> Iterator[str]:
    left_out = found.get("left_out")
    for name, reason in left_out.items() if isinstance(left_out, dict) else ():
        yield html.escape(f"{condition_title(str(name))}: not asked, {reason}")


def _number(value: Any) -> float | None:
    return float(value) if is_score(value) else None


def _pair(value: Any) -> tuple[float | None, float | None]:
    if isinstance(value, list) and len(value) == 2:
        return _number(value[0]), _number(value[1])
    return None, None
