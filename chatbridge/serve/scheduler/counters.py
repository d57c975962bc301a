"""What the scheduler counts, for a server's metrics."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

from chatbridge.common.forked import renew_in_children

ENDS = ("stop", "length", "time", "cancelled", "error", "busy")
TOKENS = ("prompt", "cached", "media", "answer")
SECONDS = ("waiting", "answering", "stepping")
Stats = dict[str, float | Mapping[str, float]]


class Counters:
    """Sums since the start; any number of threads may add to them."""

    def __init__(self) -> None:
        self._sums: dict[str, Counter[str]] = {
            "requests_total": Counter(dict.fromkeys(ENDS, 0)),
            "tokens_total": Counter(dict.fromkeys(TOKENS, 0)),
            "seconds_total": Counter(dict.fromkeys(SECONDS, 0)),
            "steps_total": Counter({"steps": 0, "rows": 0}),
        }
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """With a lock that nobody holds."""
        self._lock = threading.Lock()

    def add(self, name: str, **amounts: float) -> None:
        """Add to the kinds of one count."""
        with self._lock:
            for kind, amount in amounts.items():
                self._sums[name][kind] += amount  # pyright: ignore[reportArgumentType]

    def values(self) -> Stats:
        """Name -> kind -> sum; `rows` counts each step as often as it has requests."""
        with self._lock:
            return {name: dict(sums) for name, sums in self._sums.items()}


__all__ = ["Counters", "Stats"]
