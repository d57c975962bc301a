"""The numbers of a report: scores, ablations, results.json and the table for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.common.safe_files import replace_text
from chatbridge.report.chance import chance_by_kind, chance_knowing, guessed_rows
from chatbridge.report.run_files import is_number
from chatbridge.report.runs import CAPTION, QA, Runs, TaskRun
from chatbridge.report.score_lines import Score, meaningful_chance, scores, unit_of
from chatbridge.tasks import Prediction
from chatbridge.tasks.score_text import interval_text, score_text

RESULTS = "results.json"


@dataclass(frozen=True)
class Ablation:
    """One line of the ablation table: the same questions with all their media, and with one modality removed.

    field    name of the annotation field with the modality that a question is about
    about    its value on this line; None: all questions of the task
    without  removed modality -> score
    knowing  removed modality -> chance level when the rest of the answer is known; only for answers of several parts
    """

    base: str
    title: str
    field: str
    about: str | None
    full: float
    chance: float | None
    without: Mapping[str, float]
    knowing: Mapping[str, float]
    count: int
    unit: str = "fraction"


def ablations(runs: Runs) -> list[Ablation]:
    """A line per task that has ablations, followed by a line per modality that its questions are about."""
    found = []
    for task in runs.scored:
        others = {"+".join(other.dropped): other for other in runs.ablations(task) if other.metric == task.metric}
        if others:
            field = task.modality_field
            values = {str(row["details"][field]) for row in task.rows if field in row["details"]} if field else set()
            found += [_ablation(task, others, about) for about in (None, *sorted(values))]
    return found


def _ablation(task: TaskRun, others: Mapping[str, TaskRun], about: str | None) -> Ablation:
    rows = _rows_about(task, task.modality_field, about)
    knowing = {name: _chance_of_rest(task, rows, name) for name in others}
    return Ablation(
        base=task.label,
        title=task.title,
        field=task.modality_field or "",
        about=about,
        full=_mean(rows, task.metric),
        chance=meaningful_chance(task, rows),
        without={
            name: _mean(_rows_about(other, task.modality_field, about), task.metric) for name, other in others.items()
        },
        knowing={name: value for name, value in knowing.items() if value is not None},
        count=len(rows),
        unit=unit_of(task.metrics, task.metric),
    )


def _chance_of_rest(task: TaskRun, rows: list[Prediction], removed: str) -> float | None:
    """Chance level when the part of an answer that needs the removed modality is guessed and the other is known."""
    if len(task.answer_parts) != 2 or removed not in task.answer_parts:
        return None
    return chance_knowing(rows, task.kind_field, part=1 - task.answer_parts.index(removed))


def _rows_about(task: TaskRun, field: str | None, about: str | None) -> list[Prediction]:
    return [row for row in task.rows if about is None or str(row["details"].get(field)) == about]


def _mean(rows: list[Prediction], metric: str) -> float:
    """Over the rows that have the score; an unreadable one counts as 0."""
    found = [row["scores"].get(metric, 0.0) for row in rows if metric in row["scores"] or "problem" in row]
    return sum(found) / len(found) if found else 0.0


def results(runs: Runs) -> dict[str, Any]:
    """The content of results.json; all numbers but seconds, totals, and scores of another unit are fractions.

    qa, caption  label -> score
    totals       label -> name -> sum; only with tasks that have sums
    ablation     task -> {"full", "without_<modality>", and <field>: {modality: the same}}, where <field> is the
                 annotation field with the modality that a question is about
    chance       {"qa", "caption"} as above, and "by_kind": task -> kind of question -> chance level
    wall_s       step -> seconds
    """
    groups: dict[str, Any] = {QA: {}, CAPTION: {}}
    guesses: dict[str, Any] = {QA: {}, CAPTION: {}}
    for score in scores(runs):
        groups[score.group][score.label] = round(score.score, 4)
        if score.chance is not None:
            guesses[score.group][score.label] = round(score.chance, 4)
    questions = (task for task in runs.scored if task.group == QA)
    kinds = {task.label: _rounded(chance_by_kind(guessed_rows(task), task.kind_field)) for task in questions}
    table: dict[str, Any] = {}
    for line in ablations(runs):
        numbers = {"full": line.full, **{f"without_{name}": score for name, score in line.without.items()}}
        if line.about is None:
            table[line.base] = _rounded(numbers)
        else:
            table[line.base].setdefault(line.field, {})[line.about] = _rounded(numbers)
    sums = {"totals": found} if (found := totals(runs)) else {}
    chances = {**guesses, "by_kind": kinds}
    return {**groups, **sums, "ablation": table, "chance": chances, "wall_s": dict(runs.wall_s)}


def totals(runs: Runs) -> dict[str, dict[str, float]]:
    """label -> name -> sum, of tasks that have sums: perception and cognition of MME."""
    found = {task.label: task.metrics.get("totals") for task in runs.scored}
    numbers = {
        label: {str(name): value for name, value in sums.items() if is_number(value)}
        for label, sums in found.items()
        if isinstance(sums, dict)
    }
    return {label: sums for label, sums in numbers.items() if sums}


def _rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in numbers.items()}


def write_results(runs: Runs) -> Path:
    """Write results.json; returns its path."""
    path = runs.root / RESULTS
    replace_text(path, json.dumps(results(runs), indent=1))
    return path


def text_table(runs: Runs) -> str:
    """The result table for a terminal."""
    rows = []
    for score in scores(runs):
        name = f"{score.group} {score.label}{f' ({score.metric})' if score.metric else ''}"
        rows += [(name, _numbers(score)), *_beside(score)]
    for label, sums in totals(runs).items():
        rows += [(f"  {label}: {name}", f"{value:8.1f}") for name, value in sums.items()]
    for line in ablations(runs):
        name = line.base if line.about is None else f"  {line.field} the {line.about}"
        removed = ", ".join(f"without {kind} {score_text(score, line.unit)}" for kind, score in line.without.items())
        chance = "" if line.chance is None else f"{line.chance:.1%}"
        rows.append((name, f"{score_text(line.full, line.unit):>8}{chance:>9}  {removed}"))
    rows = [("", f"{'score':>8}{'chance':>9}{'target':>9}{'':<8}  95% interval"), *rows]
    width = max(28, *(len(name) + 1 for name, _ in rows))
    return "\n".join(f"{name:<{width}}{numbers}".rstrip() for name, numbers in rows)


def _numbers(score: Score) -> str:
    """The columns of a task: score, chance level, target, 95% interval."""
    chance = "" if score.chance is None else f"{score.chance:.1%}"
    target = "" if score.target is None else f"{score.target:9.0%}  {'met' if score.is_met else 'missed'}"
    between = interval_text(score.low, score.high, score.unit)
    return f"{score_text(score.score, score.unit):>8}{chance:>9}{target:<17}  {between}"


def _beside(score: Score) -> list[tuple[str, str]]:
    """The other scores of a task, then the published ones."""
    rows = [
        (f"  {one.name}", f"{score_text(one.value, one.unit):>8}{'':<26}  {interval_text(one.low, one.high, one.unit)}")
        for one in score.others
    ]
    return rows + [
        (f"  published: {one.model}, {one.metric}", f"{score_text(one.value, one.unit):>8}  {one.source}")
        for one in score.published
    ]
