"""A local server that speaks OpenAI's images API and misbehaves on demand."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from zlib import crc32

from PIL import Image

from tests.helpers.local_server import running

Behaviour = str | int  # "b64", "url", "none", "junk", "html", "hang", "data", "torn"; or an HTTP status


@dataclass
class ImageServerState:
    """What the server received, and how it answers the n-th request."""

    behave: Callable[[int, dict[str, Any]], Behaviour] = lambda number, body: "b64"
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""
    release: threading.Event = field(default_factory=threading.Event)


def color_of(body: dict[str, Any]) -> tuple[int, int, int]:
    """The color of the image for a request: prompt and seed decide it."""
    red, green, blue, _ = crc32(f"{body.get('seed')} {body['prompt']}".encode()).to_bytes(4, "big")
    return red, green, blue


def png_of(body: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), color_of(body)).save(file, "PNG")
    return file.getvalue()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        state: ImageServerState = self.server.state  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = len(state.requests)
        state.requests.append({**body, "path": self.path})
        state.keys.append(self.headers.get("Authorization", ""))
        found = state.behave(number, body)
        if isinstance(found, int):
            error = {"error": {"message": f"refused: {body}", "type": None, "code": None}}
            self._send(found, json.dumps(error).encode())
        elif found == "hang":
            state.release.wait(20)
            self.close_connection = True
        elif found == "html":
            self._send(200, b"<html>a proxy</html>", "text/html")
        else:
            address = f"{state.url.removesuffix('/v1')}/{number}.png"
            data = {"b64": {"b64_json": base64.b64encode(png_of(body)).decode()}, "url": {"url": address},
                    "junk": {"b64_json": base64.b64encode(b"not an image").decode()}, "none": {},
                    "data": {"url": f"data:image/png;base64,{base64.b64encode(png_of(body)).decode()}"},
                    "torn": {"url": "data:image/png;base64,abcde"}}[found]  # fmt: skip
            self._send(200, json.dumps({"created": 1, "data": [data]}).encode())

    def do_GET(self) -> None:
        state: ImageServerState = self.server.state  # type: ignore[attr-defined]
        self._send(200, png_of(state.requests[int(self.path[1:].partition(".")[0])]), "image/png")

    def _send(self, status: int, content: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *given: Any) -> None:
        """Nothing."""


@contextmanager
def image_server(**settings: Any) -> Iterator[ImageServerState]:
    """A running server; its address is `url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    state = server.state = ImageServerState(**settings)  # type: ignore[attr-defined]
    with running(server, state.release) as address:
        state.url = f"{address}/v1"
        yield state
