"""A line on a terminal about what a plan is doing, when it takes longer than a few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

PATIENCE_S, INTERVAL_S = 3.0, 1.0


@contextmanager
def told(what: str) -> Iterator[None]:
    """After three seconds, stderr shows `what` and the seconds so far; the line goes when the block ends. A terminal
    only."""
    if not sys.stderr.isatty():
        yield
        return
    done = Event()
    line = Thread(target=_tell, args=(what, done), daemon=True)
    line.start()
    try:
        yield
    finally:
        done.set()
        line.join()


def _tell(what: str, done: Event) -> None:
    start, stream, interval = time.monotonic(), sys.stderr, PATIENCE_S
    while not done.wait(interval):
        stream.write(f"\r\033[K{what}: {time.monotonic() - start:.0f} s")
        stream.flush()
        interval = INTERVAL_S
    if interval != PATIENCE_S:
        stream.write("\r\033[K")
        stream.flush()
