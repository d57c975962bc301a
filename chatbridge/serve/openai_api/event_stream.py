"""Server-sent events, and what ends when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
AGAIN_S = 0.25  # between two attempts to cancel a task


class ClientGone(Exception):
    """The client closed its connection."""


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; it is cancelled when the client leaves. raises ClientGone then

    receive   of a request whose body was read
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for one in (task, gone):
            await _ended(one)


async def _ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it ends: code that loses a cancellation must not keep it."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_S)
    if not task.cancelled():
        task.exception()  # seen


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A response of events that are sent as they come.

    on_end   is called however it ends; True: the client received everything
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[bytes], on_end: Callable[[bool], None], headers: Mapping[str, str] | None = None
    ) -> None:
        more = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies would hold events back
        super().__init__(status_code=200, headers={**more, **(headers or {})})
        del self.headers["content-length"]
        self._events, self._on_end = events, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_complete = False
        try:
            await until_disconnect(receive, self._send(send))
            is_complete = True
        except (ClientGone, OSError):
            pass
        finally:
            self._on_end(is_complete)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


__all__ = ["ClientGone", "EventStream", "until_disconnect"]
