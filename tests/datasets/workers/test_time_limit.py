"""The time limit of reading one sample."""

from __future__ import annotations

import signal
import time

import pytest

from chatbridge.common.errors import MediaError
from chatbridge.datasets.workers.time_limit import time_limit, timer_paused


def _wait_twice(uncounted_s: float, counted_s: float) -> None:
    with timer_paused():
        time.sleep(uncounted_s)
    time.sleep(counted_s)


def test_the_time_limit():
    """fails when a limit outlives its block, ends a later block, or counts the time of a download"""
    before = signal.getsignal(signal.SIGALRM)
    told: list[bool] = []
    with time_limit(0.4, told.append), timer_paused():
        time.sleep(0.5)
    time.sleep(0.5)
    assert told == [True, False] and signal.getsignal(signal.SIGALRM) is before
    with pytest.raises(MediaError, match="longer than 0.05 s"), time_limit(0.05):
        _wait_twice(0.06, 5)
    with pytest.raises(KeyError), time_limit(0.05):
        raise KeyError
