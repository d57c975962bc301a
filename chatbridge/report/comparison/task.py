"""Two systems on the same items: where their scores differ, how sure that is, and which items changed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from chatbridge.common.errors import DataError
from chatbridge.report.comparison.items import Side, common_items, with_references
from chatbridge.tasks.metrics.base import Item, Score
from chatbridge.tasks.scoring import drawn_with, groups_of
from chatbridge.tasks.statistics import FEWEST, RESAMPLES, SAME, Array, Outcomes, PairedDifference, mcnemar, paired

Verdict = Literal["A", "B", ""]


class NotScored(DataError):
    """Neither side has a score of a task: its data have no reference answers."""


@dataclass(frozen=True)
class ScoreComparison:
    """One score of both systems, on the items that both have.

    paired     without an interval and p if there are fewer than `FEWEST` units
    outcomes   items by the better system; p of McNemar's test if answers are right or wrong, otherwise of the sign test
    is_grouped  whether items are drawn together; the p of outcomes is then that of the sums of these groups
    count      items with the score on both sides
    units      items, or groups of them, that are drawn independently
    """

    name: str
    unit: str
    higher_is_better: bool
    a: float
    b: float
    paired: PairedDifference
    outcomes: Outcomes
    is_right_or_wrong: bool
    count: int
    units: int
    is_grouped: bool = False

    @property
    def is_enough(self) -> bool:
        """Whether there are enough independent items for an interval."""
        return self.units >= FEWEST

    @property
    def better(self) -> Verdict:
        """The system whose advantage the interval of the difference confirms; "" if it includes 0 or is not known."""
        if math.isnan(self.paired.low) or self.paired.low <= 0 <= self.paired.high:
            return ""
        return "B" if (self.paired.difference > 0) == self.higher_is_better else "A"


@dataclass(frozen=True)
class ItemChange:
    """An item whose headline score differs; gain: by how much b is better, negative where it is worse."""

    item_a: Item
    item_b: Item
    a: float
    b: float
    gain: float


@dataclass(frozen=True)
class TaskComparison:
    """One task of both systems.

    only_a, only_b   ids that the other one lacks; they are not compared
    scores           the headline first
    groups           annotation field -> its value -> the headline score there
    changed          by the size of the change, then in the order of the file
    """

    name: str
    a: Side
    b: Side
    count: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    scores: tuple[ScoreComparison, ...]
    groups: Mapping[str, Mapping[str, ScoreComparison]]
    changed: tuple[ItemChange, ...]

    @property
    def better(self) -> tuple[ItemChange, ...]:
        return tuple(change for change in self.changed if change.gain > 0)

    @property
    def worse(self) -> tuple[ItemChange, ...]:
        return tuple(change for change in self.changed if change.gain < 0)


def compare_task(
    a: Side,
    b: Side,
    group_by: Sequence[str] = (),
    resample_by: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> TaskComparison:
    """Compare the items that both sides have.

    group_by     annotation fields whose values get a line each
    resample_by  annotation fields whose values name the items that are drawn together; (): items are independent
    raises       NotScored if neither side has a score; DataError if no item or score is common, or an id has other
                 references on the other side
    """
    pairs, only_a, only_b = common_items(a, b)
    pairs = [(with_references(one, other), with_references(other, one)) for one, other in pairs]
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    scores_a, scores_b = a.score(first), b.score(second)
    matched = _matched(a, b, scores_a, scores_b)
    told = [one if one.details else other for one, other in pairs]  # a file of scores has no details
    labels = [drawn_with(item, resample_by) for item in told] if resample_by else None
    if labels is not None and len(set(labels)) == len(labels):  # every item is drawn alone
        labels = None
    headline = matched[0]
    return TaskComparison(
        name=a.task if a.task == b.task else f"{a.task} / {b.task}",
        a=a,
        b=b,
        count=len(pairs),
        only_a=only_a,
        only_b=only_b,
        scores=tuple(_compared(*one, labels, resamples, seed) for one in matched),
        groups={field: _by_group(*headline, told, field, labels, resamples, seed) for field in group_by},
        changed=tuple(_changes(*headline, pairs)),
    )


def _matched(a: Side, b: Side, scores_a: Sequence[Score], scores_b: Sequence[Score]) -> list[tuple[Score, Score]]:
    """The scores that both sides have, in the order of a."""
    named = {score.name: score for score in scores_b}
    matched = [(score, named[score.name]) for score in scores_a if score.name in named]
    if not scores_a and not scores_b:
        raise NotScored(f"{a.task}: has no score on either side, as its data have no reference answers")
    if not matched:
        have = [", ".join(score.name for score in scores) or "no score" for scores in (scores_a, scores_b)]
        raise DataError(
            f"{a.task}: no score is common: {a.label} has {have[0]}, {b.label} has {have[1]}; "
            "name the metrics for both, for example --metrics exact_match"
        )
    return matched


def _compared(a: Score, b: Score, labels: Sequence[Hashable] | None, resamples: int, seed: int) -> ScoreComparison:
    sign = 1.0 if a.higher_is_better else -1.0
    both = ~np.isnan(a.per_item) & ~np.isnan(b.per_item)
    values = np.concatenate([a.per_item[both], b.per_item[both]])
    ends = (0.0, 100.0 if a.unit == "percent" else 1.0)
    counted = np.flatnonzero(a.statistics.any(axis=1) | b.statistics.any(axis=1)).tolist()
    units = len(counted) if labels is None else len({labels[at] for at in counted})
    difference = PairedDifference(b.value - a.value, math.nan, math.nan, math.nan)
    return ScoreComparison(
        name=a.name,
        unit=a.unit,
        higher_is_better=a.higher_is_better,
        a=a.value,
        b=b.value,
        paired=difference if units < FEWEST else paired(a, b, labels, resamples, seed),
        outcomes=_outcomes(sign * a.per_item, sign * b.per_item, labels),
        is_right_or_wrong=a.unit != "number" and bool(np.isin(values, ends).all()),
        count=int(both.sum()),
        units=units,
        is_grouped=labels is not None,
    )


def _outcomes(a: Array, b: Array, labels: Sequence[Hashable] | None) -> Outcomes:
    """Items by the better system. Items of a group are not independent, so the p is that of the groups."""
    items = mcnemar(a, b)
    if labels is None:
        return items
    gains: dict[Hashable, float] = {}
    for label, gain in zip(labels, (b - a).tolist(), strict=True):
        gains[label] = gains.get(label, 0.0) + (0.0 if math.isnan(gain) else gain)
    return replace(items, p=mcnemar([0.0] * len(gains), list(gains.values())).p)


def _by_group(
    a: Score,
    b: Score,
    items: Sequence[Item],
    field: str,
    labels: Sequence[Hashable] | None,
    resamples: int,
    seed: int,
) -> dict[str, ScoreComparison]:
    """Value of an annotation field -> both scores of its items, sorted by the value."""
    members: dict[str, list[int]] = {}
    for position, item in enumerate(items):
        for value in groups_of(item.details, field):
            members.setdefault(value, []).append(position)
    return {
        value: _compared(
            _part(a, members[value]),
            _part(b, members[value]),
            None if labels is None else [labels[position] for position in members[value]],
            resamples,
            seed,
        )
        for value in sorted(members)
    }


def _part(score: Score, positions: Sequence[int]) -> Score:
    chosen = np.asarray(positions, dtype=np.int64)
    return replace(score, statistics=score.statistics[chosen], per_item=score.per_item[chosen])


def _changes(a: Score, b: Score, pairs: Sequence[tuple[Item, Item]]) -> list[ItemChange]:
    sign = 1.0 if a.higher_is_better else -1.0
    found = [
        ItemChange(item_a, item_b, float(first), float(second), sign * float(second - first))
        for (item_a, item_b), first, second in zip(pairs, a.per_item, b.per_item, strict=True)
        if abs(second - first) > SAME
    ]
    return sorted(found, key=lambda change: -abs(change.gain))
