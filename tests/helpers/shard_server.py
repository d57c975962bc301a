"""A small web server for shards, which can be as unreliable as a real one."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class ShardServer:
    """The settings and the counters of the server.

    has_ranges    it supports "Range" requests; else it always sends the whole file
    drop_after    bytes of an answer after which it closes the connection; 0: never
    drops         number of answers that are dropped like this
    status        file name -> status of its answer
    wait_s        seconds before every answer
    asked         file name -> requests;  sent: bytes of bodies
    """

    folder: Path
    has_ranges: bool = True
    drop_after: int = 0
    drops: int = 10**9
    status: dict[str, int] = field(default_factory=dict)
    wait_s: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    url: str = ""


@contextmanager
def serving(folder: Path, **options: object) -> Iterator[ShardServer]:
    state = ShardServer(folder, **options)  # type: ignore[arg-type]
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2].partition("?")[0]
            state.asked[name] += 1
            if closing.wait(state.wait_s):
                self.close_connection = True
                return
            file = folder / name
            status = state.status.get(name) or (200 if file.is_file() else 404)
            if status != 200:
                self.send_error(status)
                return
            content, tag = file.read_bytes(), f'"{file.stat().st_mtime_ns}"'
            start = 0
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if asked and state.has_ranges and self.headers.get("If-Range", tag) == tag:
                start = int(asked[1])
            if start >= len(content) > 0:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", tag)
            self.end_headers()
            self._send(content[start:])

        def _send(self, body: bytes) -> None:
            if state.drop_after and state.drops > 0 and len(body) > state.drop_after:
                state.drops -= 1
                body = body[: state.drop_after]
                self.close_connection = True
            state.sent += len(body)
            with suppress(ConnectionError):  # the other side may have been killed
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
