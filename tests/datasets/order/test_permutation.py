"""Keyed permutations: complete, even, and the same for every call."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from chatbridge.common.seeds import number
from chatbridge.datasets.order.permutation import keyed, permute, uniform


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 255, 256, 257, 5000])
def test_permute_is_a_permutation(size):
    """fails when two positions have one image, an image is out of range, or the key does not matter"""
    first = permute(np.arange(size), size, number(0, "one"))
    assert sorted(first.tolist()) == list(range(size))
    if size > 16:
        assert (first != permute(np.arange(size), size, number(0, "two"))).mean() > 0.8
        assert (first != np.arange(size)).mean() > 0.8


def test_small_permutations_reach_every_order():
    """fails when a small source has only a few orders"""
    orders = Counter(tuple(permute(np.arange(4), 4, key)) for key in keyed(1, np.arange(2400)))
    assert len(orders) == 24
    assert min(orders.values()) > 50 and max(orders.values()) < 160


def test_permute_takes_single_positions_and_huge_sizes():
    """fails when the image of a position depends on other positions of the call, or memory grows with the size"""
    size, key = 5_000_000_000, number(0, "laion")
    places = np.array([0, 1, size - 1, 123_456_789])
    together = permute(places, size, key)
    assert [int(permute(np.array([place]), size, key)[0]) for place in places] == together.tolist()
    assert ((together >= 0) & (together < size)).all() and len(set(together.tolist())) == 4


def test_permutation_spreads_evenly():
    """fails when neighbours remain neighbours or one half of the range is preferred"""
    order = permute(np.arange(10_000), 10_000, number(0, "x"))
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.04
    assert abs(np.mean(np.abs(np.diff(order))) - 10_000 / 3) < 150
    assert abs(uniform(number(0, "u"), np.arange(10_000)).mean() - 0.5) < 0.02
