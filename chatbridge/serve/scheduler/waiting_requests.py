"""The line of requests that wait for a place."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from chatbridge.serve.scheduler.requests import Request


class WaitingRequests:
    """Requests that wait, the first one first. Any number of threads may use it.

    changed    guards the line, the flags of requests and whatever its users share; notified when anything changes
    is_closed  whether nothing more is answered
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.is_closed = False
        self._requests: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._requests)

    def append(self, request: Request) -> None:
        """Let a request wait, after all others."""
        with self.changed:
            self._requests.append(request)

    def put_first(self, requests: Sequence[Request]) -> None:
        """Let requests wait once more, before all others."""
        with self.changed:
            self._requests.extendleft(reversed(requests))

    def take_first(self, has_place: Callable[[Request], bool]) -> Request | None:
        """The request that waits longest; None if there is none, or no place for it."""
        with self.changed:
            return self._requests.popleft() if self._requests and has_place(self._requests[0]) else None

    def take_ended(self, now: float) -> list[Request]:
        """Those that were cancelled, or whose time limit has passed."""
        with self.changed:
            ended = [one for one in self._requests if one.is_to_end(now)]
            for one in ended:
                self._requests.remove(one)
        return ended

    def all(self) -> list[Request]:
        """All of them, which go on waiting."""
        with self.changed:
            return list(self._requests)

    def take_all(self) -> list[Request]:
        """All of them."""
        with self.changed:
            found = list(self._requests)
            self._requests.clear()
        return found


__all__ = ["WaitingRequests"]
