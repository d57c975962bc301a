"""Streams of server-sent events over HTTP, read in one thread of their own and handed over through queues.

A caller may stop waiting at any time: ending a stream closes its connection, which ends the request in vLLM.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from chatbridge.common.errors import in_one_line
from chatbridge.common.extras import need

T = TypeVar("T")
LONGEST_ERROR = 100_000  # bytes of an error's body that are read
LONGEST_LIST = 10_000_000  # bytes of another answer
LONGEST_EVENT = 10_000_000  # bytes of a line of a stream
MOST_RETRY_S = 3600.0
MOST_CONNECTIONS = 1000


@dataclass(frozen=True)
class HttpFailure:
    """A stream that did not come, or broke off.

    status   of HTTP; None: the connection failed
    reason   for the user
    retry_s  seconds after which the server wants to be asked again
    """

    status: int | None
    reason: str
    retry_s: float | None = None


class End:
    """The end of a stream that is complete."""


Item = Any  # a JSON value of the stream, an HttpFailure, or End


class EventStream:
    """The events of one request, in order. `close` it in any case."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.task: Future[None] | None = None

    def next(self, timeout_s: float) -> Item | None:
        """The next item; None if there is none within the time."""
        try:
            return self.items.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the request and its connection. It may be called several times."""
        if self.task is not None:
            self.task.cancel()


class HttpStreams:
    """A thread with an event loop that reads any number of streams. Any thread may call it.

    connect_s   for a connection
    silent_s    most seconds without a byte from the other side
    headers     of every request
    The environment's proxies are not used.
    """

    def __init__(self, connect_s: float, silent_s: float, headers: Mapping[str, str]) -> None:
        httpx = need("httpx", "asking vLLM")
        self._loop = asyncio.new_event_loop()
        timeout = httpx.Timeout(silent_s, connect=connect_s)
        limits = httpx.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=100)
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, headers=dict(headers), trust_env=False)
        self._failures = (httpx.HTTPError, httpx.InvalidURL, OSError)
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm-http", daemon=True)
        self._thread.start()
        self._is_closed = False
        self._lock = threading.Lock()

    def post(self, url: str, body: bytes) -> EventStream:
        """The events of a request."""
        stream = EventStream()
        stream.task = self._run(self._read(url, body, stream.items))
        return stream

    def get(self, url: str, timeout_s: float) -> tuple[int | None, Any]:
        """Status and JSON of an answer; the reason as a text where there is none."""
        try:
            return self._run(self._get(url, timeout_s)).result(timeout_s + 5.0)
        except TimeoutError:
            return None, "did not answer in time"

    def every(self, seconds: float, act: Any) -> None:
        """Call a coroutine function again and again, for as long as this is open."""

        async def forever() -> None:
            while True:
                await asyncio.sleep(seconds)
                await act()

        self._run(forever())

    async def get_json(self, url: str, timeout_s: float) -> tuple[int | None, Any]:
        """As `get`, for `every`."""
        return await self._get(url, timeout_s)

    def close(self) -> None:
        """End all streams and the thread."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        self._thread.join(5.0)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._is_closed:
                coroutine.close()
                raise RuntimeError("the connections to vLLM are closed")
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()
        self._loop.stop()

    async def _get(self, url: str, timeout_s: float) -> tuple[int | None, Any]:
        try:
            async with asyncio.timeout(timeout_s), self._client.stream("GET", url, timeout=timeout_s) as response:
                body = await _beginning(response, LONGEST_LIST)
                return response.status_code, json.loads(body) if response.status_code == 200 else None
        except (*self._failures, TimeoutError) as error:
            return None, _reason(error)
        except (ValueError, RecursionError):
            return None, "answered with something that is not JSON"

    async def _read(self, url: str, body: bytes, items: queue.SimpleQueue[Item]) -> None:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        try:
            async with self._client.stream("POST", url, content=body, headers=headers) as response:
                if response.status_code != 200:
                    items.put(await _failure(response))
                    return
                async for line in _lines(response):
                    if not line.startswith("data:"):
                        continue
                    if (text := line[len("data:") :].strip()) == "[DONE]":
                        items.put(End())
                        return
                    items.put(json.loads(text))
            items.put(HttpFailure(None, "ended the stream before the answer was complete"))
        except self._failures as error:
            items.put(HttpFailure(None, _reason(error)))
        except (ValueError, RecursionError):
            items.put(HttpFailure(None, "sent an event that is not JSON"))
        except _TooLong:
            items.put(HttpFailure(None, f"sent an event of more than {LONGEST_EVENT // 1_000_000} MB"))


class _TooLong(Exception):
    """A line that does not end."""


async def _lines(response: Any) -> AsyncIterator[str]:
    """The lines of a stream as they come. raises _TooLong, ValueError for bytes that are no text"""
    rest: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        *ended, last = chunk.split(b"\n")
        for line in ended:
            yield b"".join((*rest, line)).decode()
            rest, size = [], 0
        rest.append(last)
        size += len(last)
        if size > LONGEST_EVENT:
            raise _TooLong
    yield b"".join(rest).decode()


async def _beginning(response: Any, most: int) -> bytes:
    """The body, or its beginning: a little more than `most` bytes."""
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > most:
            break
    return body


async def _failure(response: Any) -> HttpFailure:
    from chatbridge.serve.vllm.wire import message_of

    body = await _beginning(response, LONGEST_ERROR)
    try:
        reason = message_of(json.loads(body))
    except (ValueError, RecursionError):
        reason = in_one_line(body.decode("utf-8", "replace"))
    after = response.headers.get("retry-after", "")
    told = f"refused the request: {reason}" if reason else "refused the request"
    return HttpFailure(response.status_code, told, min(float(after), MOST_RETRY_S) if after.isdecimal() else None)


def _reason(error: Exception) -> str:
    """What happened to a connection, for the user."""
    name = type(error).__name__
    if "Timeout" in name:
        return "did not answer in time"
    return f"cannot be reached ({str(error) or name})" if "Connect" in name else f"broke off ({str(error) or name})"


__all__ = ["End", "EventStream", "HttpFailure", "HttpStreams"]
