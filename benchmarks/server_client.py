"""A server in a process of its own, and many clients of it in this one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

START_S = 120.0  # for a server to load its model on a busy machine
STOP_S = 20.0
ADDRESS = re.compile(r"http://[\w.:\[\]]+/v1")
Message = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """An answer as it arrived.

    notes    of the server, for example that turns were left out
    first_s  until the first text of a stream; of a whole answer, until it arrived
    """

    id: str
    text: str
    finish: str
    num_tokens: int
    first_s: float
    total_s: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunningServer:
    """A server process."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def rss_mb(self) -> float:
        """Memory that the process has, MB."""
        return self._status("VmRSS") / 1000

    @property
    def num_threads(self) -> int:
        return self._status("Threads")

    @property
    def num_files(self) -> int:
        """Open descriptors: files, sockets, pipes."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


@contextmanager
def running_server(config: Path, log: Path, arguments: Sequence[str] = ()) -> Iterator[RunningServer]:
    """`chatbridge serve` on a free port, ended as an operator would end it.

    raises   RuntimeError with what it printed, if it does not start
    """
    command = [sys.executable, "-m", "chatbridge", "serve", "--cfg-path", str(config), "--port", "0", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield RunningServer(_address(process, log), process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        if found := ADDRESS.search(log.read_text(errors="replace")):
            try:
                if httpx.get(found[0].removesuffix("/v1") + "/health", timeout=5).status_code == 200:
                    return found[0]
            except httpx.TransportError:  # it does not listen yet
                pass
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


@asynccontextmanager
async def clients(url: str, transport: httpx.AsyncBaseTransport | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Any number of connections to a server; with a transport, to an application of this process."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(
        base_url=url, timeout=120, limits=limits, trust_env=False, transport=transport
    ) as client:
        yield client


async def ask(client: httpx.AsyncClient, messages: Sequence[Message], stream: bool = False, **options: Any) -> Reply:
    """One answer. raises RuntimeError with what the server says, unless it is 200"""
    body = {"messages": list(messages), "stream": stream, **options}
    if stream:
        return await _streamed(client, {**body, "stream_options": {"include_usage": True}})
    begun = time.perf_counter()
    response = await client.post("chat/completions", json=body)
    _check(response.status_code, response.text)
    found, took = response.json(), time.perf_counter() - begun
    choice, usage = found["choices"][0], found["usage"]
    text, notes = choice["message"]["content"], tuple(found.get("notes", ()))
    return Reply(found["id"], text, choice["finish_reason"], usage["completion_tokens"], took, took, notes)


async def _streamed(client: httpx.AsyncClient, body: dict[str, Any]) -> Reply:
    begun, first, growing = time.perf_counter(), None, _Growing()
    async with client.stream("POST", "chat/completions", json=body) as response:
        if response.status_code != 200:
            _check(response.status_code, (await response.aread()).decode())
        async for line in response.aiter_lines():
            growing.add(line)
            if first is None and growing.texts:
                first = time.perf_counter() - begun
    took = time.perf_counter() - begun
    return growing.reply(took if first is None else first, took)


@dataclass
class _Growing:
    """The events of one stream, checked: one id, one end, and nothing after [DONE]."""

    ids: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)
    finishes: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    num_tokens: int = 0
    is_done: bool = False

    def add(self, line: str) -> None:
        if not line.startswith("data: "):
            return
        if self.is_done:
            raise RuntimeError(f"an event after [DONE]: {line[:200]}")
        if line == "data: [DONE]":
            self.is_done = True
            return
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise RuntimeError(f"the stream ended with an error: {event['error']}")
        self.ids.add(event["id"])
        self.notes = tuple(event.get("notes", self.notes))
        self.num_tokens = (event.get("usage") or {}).get("completion_tokens", self.num_tokens)
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                self.texts.append(text)
            if choice["finish_reason"]:
                self.finishes.append(choice["finish_reason"])

    def reply(self, first_s: float, total_s: float) -> Reply:
        if not self.is_done or len(self.ids) != 1 or len(self.finishes) != 1:
            raise RuntimeError(f"not one whole answer: ids {self.ids}, ends {self.finishes}, done {self.is_done}")
        id_, finish = self.ids.pop(), self.finishes[0]
        return Reply(id_, "".join(self.texts), finish, self.num_tokens, first_s, total_s, self.notes)


def _check(status: int, text: str) -> None:
    if status != 200:
        raise RuntimeError(f"status {status}: {text[:500]}")


async def gauges(client: httpx.AsyncClient) -> dict[str, float]:
    """The numbers of /metrics: "name" or 'name{kind="x"}' -> value."""
    response = await client.get(str(client.base_url).rstrip("/").removesuffix("/v1") + "/metrics")
    lines = (line.rpartition(" ") for line in response.text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def until_idle(client: httpx.AsyncClient, limit_s: float = 30.0) -> float:
    """Seconds until the server answers no request and the engine has none, waiting or running. raises TimeoutError"""
    begun = time.perf_counter()
    while time.perf_counter() - begun < limit_s:
        found = await gauges(client)
        names = ("chatbridge_requests_running", "chatbridge_engine_running", "chatbridge_engine_waiting")
        if not any(found[name] for name in names):
            return time.perf_counter() - begun
        await asyncio.sleep(0.01)
    raise TimeoutError(f"requests still run after {limit_s:g} s")
