"""The figures of the load benchmark."""

from __future__ import annotations

from benchmarks.serving_load import Size, growth_mb


def test_growth_is_that_after_the_caches_are_full():
    """fails when the first requests, which fill the caches, count as growth, or a leak does not"""
    filling = [Size(n, 100.0 + min(n, 4) * 50, 9, 17) for n in range(1, 17)]
    leaking = [Size(one.requests, one.rss_mb + one.requests, 9, 17) for one in filling]
    assert growth_mb(filling) == 0
    assert growth_mb(leaking) == 8
