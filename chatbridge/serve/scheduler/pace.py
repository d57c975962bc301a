"""Keeps an answer close to the thread that reads it, so that a reader who stops it does so within a few tokens."""

from __future__ import annotations

import time

from chatbridge.serve.scheduler.requests import Request

MOST_AHEAD = 3  # tokens that its reader has not read yet
PATIENCE_S = 0.25  # for one that does not read at all; its answer then goes on without it
LOOK_S = 0.001  # between two looks


class Pace:
    """Waits for the reader of an answer that nobody else shares the model with.

    A thread that is ready to read may get no processor for a while, where the model's thread does; Ctrl-C is not
    noticed before it does. One thread uses it.
    """

    def __init__(self) -> None:
        self._request: Request | None = None
        self._num_unread, self._patience_s = 0, PATIENCE_S

    def should_wait(self, requests: list[Request]) -> bool:
        """Whether the next token had better wait; `requests` are all that there are."""
        own = requests[0] if len(requests) == 1 else None
        num_unread = 0 if own is None else own.events.qsize()
        if own is not self._request or num_unread < self._num_unread:  # it reads
            self._patience_s = PATIENCE_S
        self._request, self._num_unread = own, num_unread
        return num_unread > MOST_AHEAD and self._patience_s > 0

    def wait(self) -> None:
        """Let the reader run."""
        began = time.monotonic()
        time.sleep(LOOK_S)
        self._patience_s -= time.monotonic() - began


__all__ = ["Pace"]
