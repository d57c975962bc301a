"""The lines of the result table: the headline score of every task with its interval, its other scores, and the scores
that others have published.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatbridge.report.chance import chance_of
from chatbridge.report.run_files import is_number
from chatbridge.report.runs import CAPTION, QA, Runs, TaskRun
from chatbridge.tasks import Prediction
from chatbridge.tasks.score_text import is_percent, is_score

USUAL = {QA: "exact_match", CAPTION: "names_all"}  # metric of a group, which its lines do not name
NOT_SCORES = ("count", "unreadable")
# fractions that grade an answer, so that the share of the most frequent answer is not their chance level
GRADED = ("bleu", "rouge", "meteor", "spice", "anls", "word_error_rate", "character_error_rate", "embedding_similarity")
Place = Literal["above", "inside", "below", ""]


@dataclass(frozen=True)
class Published:
    """A score that a paper or a model card states for this task.

    value   in the unit of our score
    place   of the published value against the interval of ours; "" where there is none
    """

    model: str
    metric: str
    value: float
    unit: str
    place: Place
    source: str
    note: str


@dataclass(frozen=True)
class OtherScore:
    """A score beside the headline. low, high: the 95% interval; None: not known"""

    name: str
    value: float
    unit: str
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Score:
    """One line of the result table.

    score, low, high  in `unit`; the interval is None where it is not known
    chance, target    fractions; chance is None where guessing the most frequent answer is no meaningful level, target
                      also for a score that is no share, such as CIDEr
    """

    group: str
    label: str
    title: str  # the heading that the settings give; "" = made from the label
    score: float
    chance: float | None
    target: float | None
    count: int
    unreadable: int
    metric: str = ""  # name of the metric where it is not the usual one of the group
    unit: str = "fraction"
    low: float | None = None
    high: float | None = None
    others: tuple[OtherScore, ...] = ()
    published: tuple[Published, ...] = ()
    lower_is_better: bool = False

    @property
    def is_met(self) -> bool | None:
        if self.target is None:
            return None
        share = as_fraction(self.score, self.unit)
        return share <= self.target if self.lower_is_better else share >= self.target


def as_fraction(value: float, unit: str) -> float:
    """A percent as a fraction; any other number as it is."""
    return value / 100 if unit == "percent" else value


def scores(runs: Runs) -> list[Score]:
    """A line per task that has a score and all its media."""
    return [_score(task) for task in runs.scored]


def _score(task: TaskRun) -> Score:
    unit, (low, high) = unit_of(task.metrics, task.metric), interval_of(task.metrics, task.metric)
    return Score(
        group=task.group,
        label=task.label,
        title=task.title,
        score=task.score,
        chance=meaningful_chance(task),
        target=task.target if is_percent(unit) else None,
        count=int(task.metrics.get("measured", {}).get(task.metric, len(task.rows))),
        unreadable=int(task.metrics.get("unreadable", 0)),
        metric="" if task.metric == USUAL[task.group] else task.metric,
        unit=unit,
        low=low,
        high=high,
        others=tuple(_others(task)),
        published=tuple(_published(task)),
        lower_is_better=task.metric in (task.metrics.get("lower_is_better") or ()),
    )


def meaningful_chance(task: TaskRun, rows: Sequence[Prediction] | None = None) -> float | None:
    """Chance level of a task, or of some of its rows; None for a metric that grades answers."""
    is_graded = unit_of(task.metrics, task.metric) != "fraction" or task.metric.startswith(GRADED)
    return None if is_graded else chance_of(task, rows)


def _others(task: TaskRun) -> Iterator[OtherScore]:
    for name, value in task.metrics.items():
        if is_score(value) and name not in (task.metric, *NOT_SCORES):
            yield OtherScore(name, value, unit_of(task.metrics, name), *interval_of(task.metrics, name))


def unit_of(metrics: Mapping[str, Any], name: str) -> str:
    """Of a score of an entry of metrics.json, which names the units that are not fractions."""
    units = metrics.get("units")
    unit = units.get(name) if isinstance(units, dict) else None
    return unit if unit in ("percent", "number") else "fraction"


def interval_of(metrics: Mapping[str, Any], name: str) -> tuple[float | None, float | None]:
    """The 95% interval of a score, or (None, None): earlier versions have none."""
    intervals = metrics.get("intervals")
    found = intervals.get(name) if isinstance(intervals, dict) else None
    if isinstance(found, list) and len(found) == 2 and all(map(is_score, found)):
        return float(found[0]), float(found[1])
    return None, None


def _published(task: TaskRun) -> Iterator[Published]:
    """The published scores of the settings whose metric the task has; entries of another shape are left out."""
    report = task.node.get("report")
    listed = report.get("published") if isinstance(report, Mapping) else None
    for one in listed if isinstance(listed, (list, tuple)) else ():
        name = one.get("metric") if isinstance(one, Mapping) else None
        if not isinstance(name, str) or not is_score(task.metrics.get(name)) or not is_score(one.get("value")):
            continue
        unit = unit_of(task.metrics, name)
        scale = one.get("scale") if is_number(one.get("scale")) and one["scale"] > 0 else usual_scale(unit)
        value = one["value"] / scale
        place = _place(value, *interval_of(task.metrics, name))
        texts = [str(one.get(key) or "") for key in ("model", "source", "note")]
        yield Published(texts[0], name, value, unit, place, *texts[1:])


def usual_scale(unit: str) -> float:
    """A published value over ours, where the settings name none: papers print fractions and CIDEr times 100."""
    return 1.0 if unit == "percent" else 100.0


def _place(value: float, low: float | None, high: float | None) -> Place:
    if low is None or high is None or math.isnan(low + high):
        return ""
    return "above" if value > high else "below" if value < low else "inside"
