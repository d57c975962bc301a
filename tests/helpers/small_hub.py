"""A server on this machine that answers like the Hugging Face hub, for a few small repositories."""

from __future__ import annotations

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class SmallHub(ThreadingHTTPServer):
    """Repositories by name, each with its files.

    gated        repositories whose terms nobody has accepted
    break_after  bytes of a file after which the connection ends, once
    served       (repository/file, first byte) of every GET of a file
    """

    daemon_threads = True

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.gated: set[str] = set()
        self.break_after: int | None = None
        self.served: list[tuple[str, int]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: SmallHub

    def do_HEAD(self) -> None:
        self._file(with_body=False)

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path).strip("/")
        if path.startswith("api/models/") and "/tree/" in path:
            files = self.server.repositories["/".join(path.split("/")[2:4])]
            tree = [{"type": "file", "path": name, "size": len(one), "oid": name} for name, one in files.items()]
            self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        elif path.startswith("api/models/"):
            self._about("/".join(path.split("/")[2:4]), path.split("/")[5:6])
        else:
            self._file(with_body=True)

    def _about(self, repo: str, revision: list[str]) -> None:
        if repo not in self.server.repositories:
            self._error(404, "RepoNotFound")
        elif revision and revision[0] not in ("main", COMMIT, "v1"):
            self._error(404, "RevisionNotFound")
        else:
            files = self.server.repositories[repo]
            siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            about = {"id": repo, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "apache-2.0"}}
            self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

    def _file(self, with_body: bool) -> None:
        owner, name, _, _, *rest = unquote(urlparse(self.path).path).strip("/").split("/")
        repo, file = f"{owner}/{name}", "/".join(rest)
        if repo in self.server.gated:
            self._error(403, "GatedRepo")
            return
        content = self.server.repositories[repo].get(file)
        if content is None:
            self._error(404, "EntryNotFound")
            return
        asked = self.headers.get("Range", "")
        first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        if with_body:
            self.server.served.append((f"{repo}/{file}", first))
        self._send(206 if first else 200, content[first:], headers, with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            end, self.server.break_after = self.server.break_after, None
            self.wfile.write(body if end is None else body[:end])

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def log_message(self, format: str, *args: Any) -> None:
        """Tests are quiet."""
