"""The table of a modality report: the headline score under every condition, and which modalities a model uses.

A modality counts as used if the score with all media is higher than with that modality exchanged between questions,
beyond what chance explains: the paired 95 % interval of the difference is above 0. Where nothing could be exchanged,
removal decides instead. Removal alone is weaker evidence, as no prompt of the training looks like that. Fewer than
FEWEST questions, or groups that are resampled together, show nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np

from chatbridge.tasks.base import Prediction
from chatbridge.tasks.metrics.base import Score, Unit
from chatbridge.tasks.modality_report.conditions import FULL, Condition
from chatbridge.tasks.score_text import difference_interval_text, difference_text, is_percent, known, score_text
from chatbridge.tasks.scoring import groups_of
from chatbridge.tasks.statistics import FEWEST, interval, paired

Verdict = Literal["used", "not shown", "harmful"]


@dataclass(frozen=True)
class Asked:
    """The answers to all questions under one condition. condition: None: with all media"""

    condition: Condition | None
    rows: Sequence[Prediction]
    score: Score

    @property
    def name(self) -> str:
        return FULL if self.condition is None else self.condition.name


def modality_table(
    asked: Sequence[Asked],
    left_out: Mapping[str, str],
    resample_by: Sequence[Hashable] | None = None,
    group_by: Sequence[str] = (),
) -> dict[str, Any]:
    """The entry "modalities" of a task in metrics.json; the first of `asked` has all media.

    left_out     condition -> why it was not made
    resample_by  a label per question: questions with the same one are resampled together
    group_by     fields of details by which the scores are grouped
    """
    full = asked[0]
    table = {one.name: _line(full, one, resample_by) for one in asked}
    units = len(full.rows) if resample_by is None else len({*resample_by})
    uses = _uses(asked, table, units)
    found: dict[str, Any] = {
        "metric": full.score.name,
        "unit": full.score.unit,
        "higher_is_better": full.score.higher_is_better,
        "count": len(full.rows),
        "conditions": table,
        "uses": uses,
        "summary": _summary(uses, full.score.unit, units),
    }
    if left_out:
        found["left_out"] = dict(left_out)
    if group_by:
        found["by"] = {field: _groups(asked, field) for field in group_by}
    return found


def modality_lines(name: str, table: Mapping[str, Any]) -> list[str]:
    """The table for a log or a terminal, a line per condition, and its sentence."""
    unit: Unit = table["unit"]
    in_what = "in points, " if is_percent(unit) else ""
    lines = [f"{name}: modalities, {table['metric']} of {table['count']:,} questions; lost: {in_what}[95% interval]"]
    for condition, line in table["conditions"].items():
        score = "none" if line["score"] is None else score_text(line["score"], unit)
        lost = ""
        if condition != FULL:
            points = _points(line["difference"], line["difference_interval"], unit)
            changed = f"{line['changed']:,} of {line['asked']:,} answers changed"
            if (better := line.get("better")) is not None:
                changed = f"better with all media for {better:.0%} of {line['asked']:,}"
            lost = f"   lost {points}, {changed}"
        unread = f", {line['unreadable']:,} could not be read" if line.get("unreadable") else ""
        lines.append(f"  {condition:<18}{score:>8}{lost}{unread}")
    lines += [f"  {condition:<18} not made: {reason}" for condition, reason in table.get("left_out", {}).items()]
    return [*lines, f"  {table['summary']}"]


def _line(full: Asked, one: Asked, resample_by: Sequence[Hashable] | None) -> dict[str, Any]:
    """Score of a condition, and what is lost against all media: positive where the media help."""
    found: dict[str, Any] = {
        "score": known(one.score.value),
        "interval": [*map(known, interval(one.score, resample_by))],
    }
    if one.condition is None:
        return found
    gap = paired(one.score, full.score, resample_by)
    sign = 1.0 if full.score.higher_is_better else -1.0
    low, high = sorted((sign * gap.low, sign * gap.high))
    return {
        **found,
        "asked": len(one.condition.asked),
        "changed": sum(a["prediction"] != b["prediction"] for a, b in zip(full.rows, one.rows, strict=True)),
        "difference": known(sign * gap.difference),
        "difference_interval": [known(low), known(high)],
        "p": known(gap.p),
        **({"better": known(_better(full, one))} if full.score.compares_items else {}),
        **({"unreadable": unread} if (unread := _unreadable(one.rows) - _unreadable(full.rows)) else {}),
    }


def _better(full: Asked, one: Asked) -> float:
    """Share of the questions asked anew that have a better value with all media; equal values count half."""
    at = [*one.condition.asked] if one.condition else []
    gaps = (full.score.per_item - one.score.per_item)[at] * (1 if full.score.higher_is_better else -1)
    gaps = gaps[~np.isnan(gaps)]
    return float((gaps > 0).mean() + (gaps == 0).mean() / 2) if len(gaps) else float("nan")


def _uses(asked: Sequence[Asked], table: Mapping[str, Mapping[str, Any]], units: int) -> dict[str, Any]:
    """Modality -> the condition that decides about it, and the verdict.

    units   questions, or groups of them that are drawn together: of a few every difference looks certain
    """
    found: dict[str, Any] = {}
    for modality in dict.fromkeys(one.condition.modality for one in asked if one.condition is not None):
        name = next(name for kind in ("shuffled", "without") if (name := f"{kind}_{modality}") in table)
        line = table[name]
        is_sure = units >= FEWEST and not line.get("unreadable")  # which count as wrong, whatever the model uses
        found[modality] = {
            "condition": name,
            "difference": line["difference"],
            "interval": line["difference_interval"],
            "verdict": _verdict(*line["difference_interval"]) if is_sure else "not shown",
        }
    return found


def _verdict(low: float | None, high: float | None) -> Verdict:
    if low is not None and low > 0:
        return "used"
    return "harmful" if high is not None and high < 0 else "not shown"


def _summary(uses: Mapping[str, Mapping[str, Any]], unit: Unit, units: int) -> str:
    """One sentence: does the model use all of its modalities?"""
    used = [name for name, one in uses.items() if one["verdict"] == "used"]
    others = [name for name in uses if name not in used]
    shown = [f"the model uses {_listed(used)}"] if used else []
    doubts = [f"that {'it' if used else 'the model'} uses {_listed(others)} is not shown"] if others else []
    start = "; ".join([*shown, *doubts])
    lost = ", ".join(f"{name} {_points(one['difference'], one['interval'], unit)}" for name, one in uses.items())
    harmful = [name for name, one in uses.items() if one["verdict"] == "harmful"]
    more = f"; it answers better with {_listed(harmful)} of another question" if harmful else ""
    few = "" if units >= FEWEST else f"; {units} independent questions are too few, {FEWEST} are needed"
    return f"{start}{more} (lost with the modality exchanged or removed: {lost}){few}"


def _points(difference: float | None, bounds: Sequence[float | None], unit: Unit) -> str:
    """A difference with its interval, in points where the score is a share."""
    low, high = bounds
    if difference is None or low is None or high is None:
        return "unknown"
    return f"{difference_text(difference, unit, 1)} {difference_interval_text(low, high, unit, 1)}"


def _unreadable(rows: Sequence[Prediction]) -> int:
    return sum("problem" in row for row in rows)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _groups(asked: Sequence[Asked], field: str) -> dict[str, dict[str, Any]]:
    """Value of the field -> number of questions, and condition -> score."""
    values = [groups_of(row["details"], field) for row in asked[0].rows]
    found: dict[str, dict[str, Any]] = {}
    for value in sorted(set(chain.from_iterable(values))):
        inside = np.array([value in one for one in values])
        sums = {one.name: one.score.combine(one.score.statistics[inside].sum(axis=0)) for one in asked}
        found[value] = {"count": int(inside.sum()), **{name: known(float(total)) for name, total in sums.items()}}
    return found
