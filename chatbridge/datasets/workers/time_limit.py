"""A limit on the time of reading one sample, inside the process that reads it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from chatbridge.common.errors import MediaError

REPEAT_S = 1.0  # a decoder may swallow the exception of the alarm, so the alarm repeats
SHORTEST_S = 1e-3  # the remaining time is at least this; 0 would switch the alarm off


OnPause = Callable[[bool], object]  # called when the timer is paused (True) and restarted (False)


class _OutOfTime(BaseException):
    """Not an Exception, so that `except Exception` in a decoder does not catch it."""


class _Alarm:
    """The state of the alarm; a process has one alarm, and its signal handler runs in the main thread."""

    def __init__(self) -> None:
        self.is_armed = False
        self.is_kept = False
        self.on_pause: OnPause | None = None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_armed:
            raise _OutOfTime


_alarm = _Alarm()


def keep_alarm() -> None:
    """Keep the SIGALRM handler of a process that only reads samples, which saves two calls per sample."""
    signal.signal(signal.SIGALRM, _alarm.on_signal)
    _alarm.is_kept = True


@contextmanager
def time_limit(seconds: float, on_pause: OnPause | None = None) -> Iterator[None]:
    """End the code of this block after so many seconds.

    This ends Python code, and C code that returns to Python now and then. C code that never returns is ended by the
    supervisor of the loader workers. Outside the main thread, and inside another time limit, there is no limit.
    raises   MediaError that names the limit
    """
    if threading.current_thread() is not threading.main_thread() or _alarm.is_armed:
        yield
        return
    previous = None if _alarm.is_kept else signal.signal(signal.SIGALRM, _alarm.on_signal)
    _alarm.on_pause = on_pause
    try:
        try:
            _alarm.is_armed = True
            signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT_S)
            yield
        finally:
            _alarm.is_armed = False
    except _OutOfTime:
        raise MediaError(f"reading it took longer than {seconds:g} s (data.media.time_limit_s)") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not _alarm.is_kept:
            signal.signal(signal.SIGALRM, previous)


@contextmanager
def timer_paused() -> Iterator[None]:
    """Pause the time limit inside this block, for example during the download of a shard."""
    if threading.current_thread() is not threading.main_thread() or not _alarm.is_armed:
        yield
        return
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    on_pause = _alarm.on_pause or (lambda is_paused: None)
    on_pause(True)
    try:
        yield
    finally:
        on_pause(False)
        signal.setitimer(signal.ITIMER_REAL, max(left, SHORTEST_S), REPEAT_S)
