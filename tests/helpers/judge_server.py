"""A local server that speaks OpenAI's chat completions and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.helpers.local_server import running

Behaviour = str | tuple[int, dict[str, str]]  # the text of a reply, or an HTTP status with headers; see JudgeServer


@dataclass
class JudgeServer:
    """What the server received and how it answers.

    behave   (number of the request from 0, its body) -> the text of the reply; "!hang", "!cut", "!html", "!json"
             (not valid), "!empty" and "!nothing" (no content), or (status, headers) of an error
    usage    whether replies count their tokens: 100 for the prompt, 10 for the reply
    """

    behave: Callable[[int, dict[str, Any]], Behaviour] = lambda number, body: "8 9\nThe second is better."
    usage: bool = True
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    url: str = ""
    release: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    state: JudgeServer

    def handle_error(self, request: Any, address: Any) -> None:
        """A client that went away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        state, body = self.server.state, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            number = len(state.requests)
            state.requests.append(body)
            state.headers.append({name.lower(): value for name, value in self.headers.items()})
            state.times.append(time.monotonic())
        found = state.behave(number, body)
        if found == "!hang":
            state.release.wait(30)
            self.close_connection = True
        elif found == "!cut":
            self._send(200, b'{"id": "x", "choices": [{"message"', {}, declared=10_000)
            self.close_connection = True
        elif found == "!html":
            self._send(200, b"<html>a proxy</html>", {}, kind="text/html")
        elif found == "!json":
            self._send(200, b'{"choices": [', {})
        elif found == "!empty":
            self._send(200, b'{"object": "chat.completion", "choices": []}', {})
        elif isinstance(found, tuple):
            status, headers = found
            code = headers.pop("code", None)
            error = {"error": {"message": f"status {status} {code or ''}", "type": code, "code": code}}
            self._send(status, json.dumps(error).encode(), headers)
        else:
            self._send(200, json.dumps(self._completion(body, found)).encode(), {})

    def _completion(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        content = None if text == "!nothing" else text
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice],
                **({"usage": usage} if self.server.state.usage else {})}  # fmt: skip

    def _send(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str],
        kind: str = "application/json",
        declared: int = 0,
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(declared or len(content)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, *given: Any) -> None:
        """Nothing."""


@contextmanager
def judge_server(**settings: Any) -> Iterator[JudgeServer]:
    """A running server; its address is `url`."""
    state = JudgeServer(**settings)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.state = state
    with running(server, state.release) as address:
        state.url = f"{address}/v1"
        yield state
