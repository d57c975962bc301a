"""How sure a score is, and whether two scores differ: bootstrap over items, and the exact test of paired outcomes.

Numbers are functions of the items and the seed alone: no threaded product of matrices, so that they are equal in one
process and in many.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatbridge.common.seeds import stream
from chatbridge.tasks.metrics.base import Score

Array = NDArray[np.float64]
Groups = Sequence[Hashable]

FEWEST = 10  # items, or groups that are drawn together, from which a bootstrap says something
RESAMPLES = 1000
LEVEL = 0.95  # share of the resamples that an interval holds
MOST_DRAWN = 2_000_000  # draws held in memory at once
SAME = 1e-9  # outcomes closer than this are equal


@dataclass(frozen=True)
class PairedDifference:
    """Score of b minus score of a on the same items.

    low, high  percentile interval of the difference over resamples of the items; NaN where nothing is counted
    p          two-sided: twice the share of resamples on the side of 0 that the difference is not on, at most 1
    """

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Outcomes:
    """Items by the system that was better, and the exact two-sided p of so uneven a split by chance alone."""

    better_a: int
    better_b: int
    equal: int
    p: float


def interval(
    score: Score, groups: Groups | None = None, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> tuple[float, float]:
    """Percentile bootstrap interval of a score, in its unit. Items without the score are not drawn.

    groups   a label per item; items with the same label (questions about one image) are drawn together
    returns  (low, high); (nan, nan) where nothing is counted. One group has no spread: low = high = the score
    raises   ValueError if there is not one label per item
    """
    sums = _sums(score.statistics, groups)
    if not len(sums):
        return math.nan, math.nan
    return _bounds(score.combine(_resampled(sums, resamples, seed)), level)


def paired(
    score_a: Score,
    score_b: Score,
    groups: Groups | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> PairedDifference:
    """Paired bootstrap: both scores of each resample come from the same items.

    score_a, score_b  of the same items in the same order
    groups            as in `interval`
    raises            ValueError if the scores have different numbers of items
    source            B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16
    """
    if len(score_a.statistics) != len(score_b.statistics):
        numbers = f"{len(score_a.statistics)} and {len(score_b.statistics)}"
        raise ValueError(f"paired scores need the same items, got {numbers}; select the common ones first")
    width = score_a.statistics.shape[1]
    sums = _sums(np.concatenate([score_a.statistics, score_b.statistics], axis=1), groups)
    difference = score_b.value - score_a.value
    if not len(sums) or math.isnan(difference):
        return PairedDifference(difference, math.nan, math.nan, math.nan)
    drawn = _resampled(sums, resamples, seed)
    differences = score_b.combine(drawn[:, width:]) - score_a.combine(drawn[:, :width])
    low, high = _bounds(differences, level)
    return PairedDifference(difference, low, high, _p(differences))


def mcnemar(a: Sequence[float] | Array, b: Sequence[float] | Array) -> Outcomes:
    """Exact test of McNemar for correct or incorrect items; for graded scores it is the sign test.

    a, b     float[items], outcomes of two systems on the same items, larger is better; NaN: left out
    raises   ValueError if the numbers of items differ
    source   Q. McNemar, Psychometrika 12, 1947; exact form: binomial distribution of the items that differ
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired outcomes need the same items, got {first.size} and {second.size}")
    gap = (second - first)[~np.isnan(second - first)]
    better_a, better_b = int((gap < -SAME).sum()), int((gap > SAME).sum())
    return Outcomes(better_a, better_b, len(gap) - better_a - better_b, _binomial_p(better_a, better_b))


def _binomial_p(first: int, second: int) -> float:
    """Two-sided probability of a split at least so uneven, each side being equally likely."""
    count, fewer = first + second, min(first, second)
    if first == second:
        return 1.0
    whole = math.lgamma(count + 1) - count * math.log(2)
    tail = (math.exp(whole - math.lgamma(k + 1) - math.lgamma(count - k + 1)) for k in range(fewer + 1))
    return min(1.0, 2 * math.fsum(tail))


def _sums(statistics: Array, groups: Groups | None) -> Array:
    """float64[groups, k]: the statistics of the groups that have some. Groups keep the order of their first item."""
    if groups is None:
        return statistics[statistics.any(axis=1)]
    if len(groups) != len(statistics):
        raise ValueError(f"expected one group per item, {len(statistics)}, got {len(groups)}")
    number: dict[Hashable, int] = {}
    rows = np.array([number.setdefault(group, len(number)) for group in groups], dtype=np.int64)
    sums = np.zeros((len(number), statistics.shape[1]))
    np.add.at(sums, rows, statistics)
    return sums[sums.any(axis=1)]


def _resampled(sums: Array, resamples: int, seed: int) -> Array:
    """float64[resamples, k]: sums over as many groups as there are, drawn with replacement."""
    count, generator = len(sums), stream(seed, "bootstrap")
    at_once, columns = max(1, MOST_DRAWN // count), np.ascontiguousarray(sums.T)
    found = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = generator.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
        found.append(np.einsum("rn,kn->rk", times, columns, optimize=False))  # without BLAS and its threads
    return np.concatenate(found)


def _bounds(values: Array, level: float) -> tuple[float, float]:
    kept = values[~np.isnan(values)]
    if not len(kept):
        return math.nan, math.nan
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _p(differences: Array) -> float:
    """Two-sided p of a bootstrap distribution; never 0, as the observed items are one more possible resample."""
    kept = differences[~np.isnan(differences)]
    below, above = int((kept <= SAME).sum()), int((kept >= -SAME).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(kept) + 1)) if len(kept) else math.nan
