"""Reads the body of a request within limits of size, time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.requests import ClientDisconnect

from chatbridge.serve.openai_api.api_errors import ApiError
from chatbridge.serve.openai_api.event_stream import ClientGone
from chatbridge.serve.openai_api.settings import BYTES_PER_MB, ServerSettings

CLOSE = {"Connection": "close"}  # what the client still sends is not read


class BodyReader:
    """Reads bodies one by one or together, as far as memory for all of them allows."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._most = int(settings.max_body_mb * BYTES_PER_MB)
        self._free = int(settings.max_bodies_mb * BYTES_PER_MB)
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body. Leaving the context makes room for another one, so it lasts as long as the body is in use.

        raises   ApiError 413 beyond the limit, before more is read; 415 for another type; 408 when it takes too long
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # other types need no permission from a browser (CORS)
            text = f"the content type is {kind[:100]!r}, expected application/json"
            raise ApiError(415, text, code="invalid_content_type", headers=CLOSE)
        size = self._declared(request)
        await self._take(size)
        try:
            yield await self._in_time(request, size)
        finally:
            async with self._changed:
                self._free += size
                self._changed.notify_all()

    async def _in_time(self, request: Request, size: int) -> bytes:
        try:
            async with asyncio.timeout(self.settings.body_time_limit_s):
                return await self._body(request, size)
        except TimeoutError:
            text = f"the request did not arrive within {self.settings.body_time_limit_s:g} s"
            raise ApiError(408, text, code="request_timeout", headers=CLOSE) from None
        except ClientDisconnect:
            raise ClientGone from None

    def _declared(self, request: Request) -> int:
        """The size that a request declares; one in chunks declares none and may have all."""
        length = request.headers.get("content-length")
        size = int(length) if length and length.isdigit() else self._most
        if size > self._most:
            raise self._too_large(f" of {size / BYTES_PER_MB:.0f} MB")
        return size

    async def _body(self, request: Request, size: int) -> bytes:
        chunks, found = [], 0
        async for chunk in request.stream():
            found += len(chunk)
            if found > size:
                raise self._too_large("")
            chunks.append(chunk)
        return b"".join(chunks)

    async def _take(self, size: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._free >= size)
            self._free -= size

    def _too_large(self, found: str) -> ApiError:
        text = f"the request{found} is larger than the {self.settings.max_body_mb:g} MB that this server accepts"
        advice = "send smaller media, or start the server with a larger --max-body-mb"
        return ApiError(413, f"{text}; {advice}", code="request_too_large", headers=CLOSE)


__all__ = ["BodyReader"]
