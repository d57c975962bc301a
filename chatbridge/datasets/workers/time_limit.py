"""A limit on how long the reading of one sample may take, inside the process that reads it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from chatbridge.common.errors import MediaError

REPEAT_S = 1.0  # a decoder may swallow what the alarm throws: it comes again until it is heard
SHORTEST_S = 1e-3  # what is left when it was about to ring; 0 would switch it off


OnPause = Callable[[bool], object]  # told when the clock stops (True) and goes on (False)


class _OutOfTime(BaseException):
    """No Exception, so that a decoder's `except Exception` lets it pass."""


class _Clock:
    """The alarm of the reading that is going on. There is one alarm per process, and it rings in the main thread."""

    def __init__(self) -> None:
        self.is_armed = False
        self.is_kept = False
        self.on_pause: OnPause | None = None

    def ring(self, number: int, frame: FrameType | None) -> None:
        if self.is_armed:
            raise _OutOfTime


_clock = _Clock()


def keep_alarm() -> None:
    """For a process that does nothing but read: SIGALRM is ours until it ends, which saves two calls per sample."""
    signal.signal(signal.SIGALRM, _clock.ring)
    _clock.is_kept = True


@contextmanager
def time_limit(seconds: float, on_pause: OnPause | None = None) -> Iterator[None]:
    """End what runs inside after so many seconds.

    Python code, and C code that comes back to Python now and then, is ended. C code that never returns is not: it is
    the supervision of loader workers that ends it. Outside the main thread, and inside another limit, nothing is
    limited.
    raises   MediaError that names the limit
    """
    if threading.current_thread() is not threading.main_thread() or _clock.is_armed:
        yield
        return
    previous = None if _clock.is_kept else signal.signal(signal.SIGALRM, _clock.ring)
    _clock.on_pause = on_pause
    try:
        try:
            _clock.is_armed = True
            signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT_S)
            yield
        finally:
            _clock.is_armed = False
    except _OutOfTime:
        raise MediaError(f"reading it took longer than {seconds:g} s (data.media.time_limit_s)") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not _clock.is_kept:
            signal.signal(signal.SIGALRM, previous)


@contextmanager
def timer_paused() -> Iterator[None]:
    """Time that no sample has to answer for, for example the download of the shard that it lies in."""
    if threading.current_thread() is not threading.main_thread() or not _clock.is_armed:
        yield
        return
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    said = _clock.on_pause or (lambda is_paused: None)
    said(True)
    try:
        yield
    finally:
        said(False)
        signal.setitimer(signal.ITIMER_REAL, max(left, SHORTEST_S), REPEAT_S)
