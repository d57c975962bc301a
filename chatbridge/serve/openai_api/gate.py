"""Counts the requests that are being answered, refuses more than fit, and lets the last ones end before a shutdown."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from chatbridge.serve.backend import Unavailable
from chatbridge.serve.openai_api.api_errors import ApiError, error_of
from chatbridge.serve.openai_api.running_answer import StopSwitch

POLL_S = 0.05


class Gate:
    """The requests that are being answered. Used by one event loop only.

    most   requests at once
    """

    def __init__(self, most: int) -> None:
        self.most, self.is_closing = most, False
        self._stops: set[StopSwitch] = set()

    @property
    def num_running(self) -> int:
        return len(self._stops)

    def enter(self) -> StopSwitch:
        """Let a request in; its switch ends it. raises Unavailable during a shutdown, ApiError 429 when full"""
        if self.is_closing:
            raise Unavailable("the server is shutting down; ask another one, or later")
        if self.num_running >= self.most:
            text = f"{self.most} requests are being answered already; ask again later"
            raise ApiError(429, text, code="rate_limit_exceeded", headers={"Retry-After": "1"})
        stop = StopSwitch()
        self._stops.add(stop)
        return stop

    def leave(self, stop: StopSwitch) -> None:
        """Forget a request that has its response."""
        stop.turn_on()
        self._stops.discard(stop)

    async def close(self, grace_s: float) -> bool:
        """Refuse new requests and wait for those that run; after grace_s they are ended. Returns whether all ended by
        themselves."""
        self.is_closing = True
        if await self._is_empty(grace_s):
            return True
        self.stop_all()
        await self._is_empty(2.0)  # for their last event to be sent
        return False

    def stop_all(self) -> None:
        """End all requests that run."""
        for stop in self._stops:
            stop.turn_on()

    async def _is_empty(self, limit_s: float) -> bool:
        end = asyncio.get_running_loop().time() + limit_s
        while self._stops and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(POLL_S)
        return not self._stops


class GateMiddleware:
    """Keeps a request counted until its response is sent whole; its switch is scope["state"]["stop"].

    A request that is refused is answered without its body.
    """

    def __init__(self, app: ASGIApp, gate: Gate, paths: tuple[str, ...]) -> None:
        self.app, self.gate, self.paths = app, gate, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self.paths or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            stop = self.gate.enter()
        except (Unavailable, ApiError) as error:
            await error_of(error, "").response(scope, receive, send)
            return
        scope.setdefault("state", {})["stop"] = stop
        try:
            await self.app(scope, receive, send)
        finally:
            self.gate.leave(stop)


__all__ = ["Gate", "GateMiddleware"]
