"""results.json: the numbers of a run, fractions between 0 and 1."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.common.safe_files import replace_text
from chatbridge.report.chance import chance, chance_by_kind, chance_knowing
from chatbridge.report.inputs import Runs, TaskRun
from chatbridge.tasks import Prediction

RESULTS = "results.json"
TARGETS = {  # what the tiny world must show, by group and label
    "qa": {"image": 0.95, "video": 0.90, "audio": 0.95, "audio_video": 0.75, "audio_video_joint": 0.60},
    "caption": {"image": 0.85, "video": 0.85, "audio": 0.85},
}
USUAL = {"qa": "exact_match", "caption": "names_all"}  # the score of a group


@dataclass(frozen=True)
class Score:
    """One line of the result table."""

    group: str  # qa or caption
    label: str
    score: float
    chance: float
    target: float | None
    count: int
    unreadable: int
    metric: str = ""  # what the score is, where it is not the usual one of its group

    @property
    def is_met(self) -> bool | None:
        return None if self.target is None else self.score >= self.target


@dataclass(frozen=True)
class Ablation:
    """One line of the modality table: the same questions with all their media, and with one taken away.

    without  modality that was taken away -> accuracy
    knowing  modality that was taken away -> chance of somebody who knows the answer's other half; joint questions only
    """

    base: str
    about: str | None  # the medium the questions are about; None: all questions of the task
    full: float
    chance: float
    without: Mapping[str, float]
    knowing: Mapping[str, float]
    count: int


def scores(runs: Runs) -> list[Score]:
    found = []
    for task in runs.full:
        group = "caption" if task.is_caption else "qa"
        unreadable = int(task.metrics.get("unreadable", 0))
        other = "" if task.metric == USUAL[group] else task.metric
        measured = int(task.metrics.get("measured", {}).get(task.metric, len(task.rows)))
        target = TARGETS[group].get(task.label) if task.has_target and not other else None
        found.append(Score(group, task.label, task.score, chance(task.rows), target, measured, unreadable, other))
    return found


def ablations(runs: Runs) -> list[Ablation]:
    """A line per task that has ablations, followed by a line per medium its questions say they are about."""
    found = []
    for task in runs.full:
        others = {"+".join(other.dropped): other for other in runs.ablations(task) if other.metric == task.metric}
        if others:
            found.append(_ablation(task, others, None))
            abouts = sorted({str(row["details"]["about"]) for row in task.rows if "about" in row["details"]})
            found += [_ablation(task, others, about) for about in abouts]
    return found


def _ablation(task: TaskRun, others: Mapping[str, TaskRun], about: str | None) -> Ablation:
    rows = _about(task, about)
    knowing = {"audio": chance_knowing(rows, 0), "video": chance_knowing(rows, 1)}  # what is left is seen, or heard
    return Ablation(
        base=task.label,
        about=about,
        full=_mean(rows, task.metric),
        chance=chance(rows),
        without={name: _mean(_about(other, about), task.metric) for name, other in others.items()},
        knowing={name: value for name, value in knowing.items() if name in others and value is not None},
        count=len(rows),
    )


def _about(task: TaskRun, about: str | None) -> list[Prediction]:
    return [row for row in task.rows if about is None or str(row["details"].get("about")) == about]


def _mean(rows: list[Prediction], metric: str) -> float:
    """Over the rows that have the score; one that could not be read counts as 0."""
    scores = [row["scores"].get(metric, 0.0) for row in rows if metric in row["scores"] or "problem" in row]
    return sum(scores) / len(scores) if scores else 0.0


def results(runs: Runs) -> dict[str, Any]:
    """The content of results.json.

    qa, caption  label -> share of right answers
    ablation     task -> {"full", "without_<modality>", and for questions about one medium "about": {medium: the same}}
    chance       {"qa", "caption"} as above, and "by_kind": task -> kind of question -> chance
    wall_s       step -> seconds
    """
    groups: dict[str, Any] = {"qa": {}, "caption": {}}
    guesses: dict[str, Any] = {"qa": {}, "caption": {}}
    for score in scores(runs):
        groups[score.group][score.label] = round(score.score, 4)
        guesses[score.group][score.label] = round(score.chance, 4)
    kinds = {task.label: _rounded(chance_by_kind(task.rows)) for task in runs.full if not task.is_caption}
    table: dict[str, Any] = {}
    for line in ablations(runs):
        numbers = {"full": line.full, **{f"without_{name}": score for name, score in line.without.items()}}
        if line.about is None:
            table[line.base] = _rounded(numbers)
        else:
            table[line.base].setdefault("about", {})[line.about] = _rounded(numbers)
    return {**groups, "ablation": table, "chance": {**guesses, "by_kind": kinds}, "wall_s": dict(runs.wall_s)}


def _rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in numbers.items()}


def write_results(runs: Runs) -> Path:
    path = runs.root / RESULTS
    replace_text(path, json.dumps(results(runs), indent=1))
    return path


def text_table(runs: Runs) -> str:
    """The result table for a terminal."""
    lines = [f"{'':<28}{'right':>8}{'chance':>9}{'target':>9}"]
    for score in scores(runs):
        target = "" if score.target is None else f"{score.target:9.0%}  {'met' if score.is_met else 'missed'}"
        name = f"{score.group} {score.label}{f' ({score.metric})' if score.metric else ''}"
        lines.append(f"{name:<28}{score.score:8.1%}{score.chance:9.1%}{target}")
    for line in ablations(runs):
        name = line.base if line.about is None else f"  about the {line.about}"
        missing = ", ".join(f"without {kind} {score:.1%}" for kind, score in line.without.items())
        lines.append(f"{name:<28}{line.full:8.1%}{line.chance:9.1%}  {missing}")
    return "\n".join(lines)
