"""Connections that ask nothing, or do not read their answer, are closed: others would find no place."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    import resource
except ImportError:  # not on Windows
    resource = None

BACKLOG = 64  # connections that the system holds until they are accepted; all of them may be accepted in one step
RESERVED = BACKLOG + 128  # file descriptors for what is not a connection: media, downloads, readers, the log
CHECK_S = 30.0  # between two looks at a connection; what has not moved in between is closed


def most_connections(wanted: int) -> int:
    """Connections that may be open at once, as far as this process may open files. Beyond its limit nothing could be
    accepted at all, and asyncio would log an error thousands of times a second."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource is not None else -1
    is_limited = resource is not None and limit != resource.RLIM_INFINITY
    return max(1, min(wanted, limit - RESERVED)) if is_limited else wanted


class CheckedConnection(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it. The times of a request's body and of its answer have limits of their own.

    most      connections at once; a further one takes the place of one that asks nothing, or is closed
    check_s   an idle connection is closed after this time at least, and twice this time at most
    """

    most = 512
    check_s = CHECK_S
    _check: asyncio.TimerHandle | None = None
    _last: Any = None
    _begun = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begun = self.loop.time()
        if len(self.connections) > self.most and not self._make_room():
            transport.abort()
            return
        self._check = self.loop.call_later(self.check_s, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _make_room(self) -> bool:
        """Close the connection that has asked nothing for longest, rather one that never did; whether there is one."""
        others = (one for one in self.connections if isinstance(one, CheckedConnection) and one is not self)
        idle = [one for one in others if one._is_idle and not one.transport.is_closing()]
        if idle:
            min(idle, key=lambda one: (one.cycle is not None, one._begun)).transport.abort()
        return bool(idle)

    def _close_if_idle(self) -> None:
        """Close a connection that is as it was: without a new request, or with an answer that nobody reads."""
        unread = self.transport.get_write_buffer_size()
        now = (self.cycle, self._is_idle, unread)
        if now == self._last and (self._is_idle or unread):
            self.transport.abort()
            return
        self._last = now
        self._check = self.loop.call_later(self.check_s, self._close_if_idle)


def connection_class(wanted: int, check_s: float = CHECK_S) -> type[CheckedConnection]:
    """The class of a server's connections; `wanted` of them at once, or as many as this process may open."""
    return type("Connection", (CheckedConnection,), {"most": most_connections(wanted), "check_s": check_s})


__all__ = ["BACKLOG", "connection_class", "most_connections"]
