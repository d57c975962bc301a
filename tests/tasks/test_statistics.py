"""Bootstrap intervals, paired differences, and McNemar's test."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from chatbridge.common.seeds import stream
from chatbridge.tasks import statistics
from chatbridge.tasks.metrics.base import Score, mean_score
from chatbridge.tasks.statistics import interval, mcnemar, paired


def coins(count: int, chance: float, counter: int) -> Score:
    """Outcomes 0 and 1 of independent items."""
    return mean_score("right", (stream(0, "coins", counter).random(count) < chance).astype(float).tolist())


def test_an_interval_has_the_width_of_theory():
    """fails when items are not resampled, the bounds are swapped, or the level is another one"""
    low, high = interval(mean_score("x", [1.0] * 100 + [0.0] * 300), resamples=4000)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - half, abs=0.006) and high == pytest.approx(0.25 + half, abs=0.006)
    narrow = interval(mean_score("x", [1.0] * 100 + [0.0] * 300), resamples=4000, level=0.5)
    assert narrow[1] - narrow[0] == pytest.approx(2 * 0.6745 / 1.96 * half, abs=0.006)


def test_intervals_hold_the_true_value():
    """fails when an interval of 95% does not hold the true accuracy in about 95% of experiments"""
    found = [interval(coins(150, 0.6, k), resamples=300) for k in range(150)]
    assert 0.88 <= np.mean([low <= 0.6 <= high for low, high in found]) <= 0.995


def test_items_of_a_group_are_drawn_together():
    """fails when ten questions about one image count as ten independent items"""
    outcomes = [float(k % 2) for k in range(40)]
    alone, together = mean_score("x", outcomes), mean_score("x", [x for x in outcomes for _ in range(10)])
    grouped = interval(together, [f"image {k}" for k in range(40) for _ in range(10)])
    assert grouped == pytest.approx(interval(alone))
    ungrouped = interval(together)
    assert ungrouped[1] - ungrouped[0] < 0.5 * (grouped[1] - grouped[0])


def test_a_score_that_is_no_mean():
    """fails when the interval of a ratio of sums is made from the values per item"""
    rows = np.array([[1.0, 1.0], [0.0, 98.0], [1.0, 1.0]] * 50)  # precision 2%, mean of the items 67%
    low, high = interval(Score("precision", rows, rows[:, 0] / rows[:, 1]))
    assert 0.01 < low < 0.02 < high < 0.04


def test_items_without_the_score_are_not_drawn():
    """fails when an absent score widens the interval, or turns it into NaN"""
    some = mean_score("x", [1.0, None, 0.0, None, 1.0, None])
    assert interval(some) == interval(mean_score("x", [1.0, 0.0, 1.0]))
    assert all(map(math.isnan, interval(mean_score("x", [None, None]))))
    assert interval(mean_score("x", [0.5])) == (0.5, 0.5)


def test_resamples_do_not_depend_on_memory(monkeypatch):
    """fails when the size of a chunk, or a second call, changes the numbers"""
    score = mean_score("x", stream(0, "values").random(37).tolist())
    whole = interval(score, seed=3)
    monkeypatch.setattr(statistics, "MOST_DRAWN", 100)
    assert interval(score, seed=3) == whole != interval(score, seed=4)


def test_a_paired_difference_uses_the_pairing():
    """fails when the two scores are resampled independently, or the sign is reversed"""
    first = coins(200, 0.5, 7)
    values = first.per_item.copy()
    wrong = np.flatnonzero(values == 0)[:10]
    values[wrong] = 1.0  # the second system repairs ten items and breaks none
    found = paired(first, mean_score("right", values.tolist()))
    assert found.difference == pytest.approx(0.05)
    assert 0.01 < found.low < 0.05 < found.high < 0.09 and found.p < 0.01
    back = paired(mean_score("right", values.tolist()), first)
    assert (back.difference, back.low, back.high) == pytest.approx((-found.difference, -found.high, -found.low))


def test_no_difference_is_not_significant():
    """fails when equal systems differ, or independent ones differ far more often than p promises"""
    score = coins(100, 0.5, 0)
    assert paired(score, score).p == 1.0 and paired(score, score).difference == 0.0
    found = [paired(coins(120, 0.5, k), coins(120, 0.5, 1000 + k), resamples=200).p for k in range(100)]
    assert 0 <= np.mean(np.array(found) < 0.05) <= 0.13


def test_mcnemar_is_the_exact_binomial_test():
    """fails when p is one-sided, or not that of the binomial distribution, also for many items"""
    found = mcnemar([1, 1, 1, 0, 0, 1, math.nan], [0, 0, 1, 1, 0, 0, 1])
    assert (found.better_a, found.better_b, found.equal) == (3, 1, 2) and found.p == pytest.approx(0.625)
    assert mcnemar([1, 0], [1, 0]).p == 1.0 and mcnemar([], []).p == 1.0
    for better, worse in [(0, 9), (20, 1), (40, 70), (480, 520)]:
        p = mcnemar([1] * better + [0] * worse, [0] * better + [1] * worse).p
        tail = sum(math.comb(better + worse, k) for k in range(min(better, worse) + 1))
        assert p == pytest.approx(float(Fraction(2 * tail, 2 ** (better + worse))), rel=1e-9)
    assert mcnemar([1] * 60_000 + [0] * 60_001, [0] * 60_000 + [1] * 60_001).p == pytest.approx(1.0)


def test_graded_outcomes_count_by_sign():
    """fails when rounding of equal scores counts as a difference"""
    found = mcnemar([30.0, 0.1 + 0.2, 90.0], [60.0, 0.3, 0.0])
    assert (found.better_a, found.better_b, found.equal) == (1, 1, 1)


def test_other_items_are_refused():
    """fails when scores of different items are paired, or labels shift against the items"""
    with pytest.raises(ValueError, match="got 2 and 3"):
        paired(mean_score("x", [1, 0]), mean_score("x", [1, 0, 0]))
    with pytest.raises(ValueError, match="got 1 and 2"):
        mcnemar([1], [1, 0])
    with pytest.raises(ValueError, match="one group per item, 2, got 3"):
        interval(mean_score("x", [1, 0]), ["a", "b", "c"])
