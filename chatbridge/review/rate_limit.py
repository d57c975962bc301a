"""A limit of requests per minute that threads and processes share through a file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

from chatbridge.common.safe_files import file_lock, replace_text

FARTHEST_S = 600.0  # a slot farther ahead was written by another clock


class RateLimit:
    """Hands out the times at which requests may start, evenly spaced.

    path         of the file with the next free time; processes with the same file share the limit
    per_minute   requests that may start in a minute
    clock        seconds since the epoch
    """

    def __init__(self, path: Path, per_minute: float, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.interval_s = 60.0 / per_minute
        self.clock = clock

    def wait(self, stop: Event) -> None:
        """Return when a request may start, or as soon as `stop` is set."""
        stop.wait(max(0.0, self.reserve() - self.clock()))

    def reserve(self) -> float:
        """Take the next free time. A process that ends before it uses its time costs that time only."""
        with file_lock(self.path):
            now = self.clock()
            taken = self._next()
            start = now if taken is None or not now <= taken <= now + FARTHEST_S else taken
            replace_text(self.path, json.dumps({"next": start + self.interval_s}))
        return start

    def _next(self) -> float | None:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))["next"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, (int, float)) else None
