"""A local server of media that misbehaves on demand, and a network on which it has public names and addresses."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import httpcore

from chatbridge.serve.media_sources.checked_connection import Network, usual_certificates
from tests.helpers.local_server import running

PUBLIC = "93.184.216.34"  # the address that names have on this network, unless others are given


@dataclass
class MediaServer:
    """A server, and what was asked of it and of the network.

    files     path -> (status, headers, content); content "drip" never ends, "hang" sends nothing, "torn" half of it
    names     host -> its addresses; a host that is not listed has PUBLIC
    asked     "host path" of each request; connected: the (address, port) of each connection; resolved: each host
    """

    files: dict[str, tuple[int, dict[str, str], bytes | str]] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connected: list[tuple[str, int]] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    port: int = 0
    release: threading.Event = field(default_factory=threading.Event)
    tls: ssl.SSLContext = field(default_factory=usual_certificates)

    @property
    def network(self) -> Network:
        """Connections to any address reach this server."""
        return Network(self._resolve, self._connect, self.tls)

    def _resolve(self, host: str, port: int) -> Sequence[str]:
        self.resolved.append(host)
        if host in self.names:
            return self.names[host]
        try:  # numbers, in every spelling that the system knows
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            return (PUBLIC,)
        return [str(one[4][0]) for one in found]

    def _connect(self, address: str, port: int, timeout_s: float) -> httpcore.NetworkStream:
        self.connected.append((address, port))
        return httpcore.SyncBackend().connect_tcp("127.0.0.1", self.port, timeout=timeout_s)

    def add(self, path: str, content: bytes | str, type_: str = "", status: int = 200, **headers: str) -> None:
        """Serve a file; `location="..."` with a status makes it a redirect."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self.files[path] = (status, {**sent, **({"Content-Type": type_} if type_ else {})}, content)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: MediaServer = self.server.media  # type: ignore[attr-defined]
        path = urlsplit(self.path).path
        server.asked.append(f"{self.headers['Host']} {self.path}")
        server.headers.append(dict(self.headers))
        status, headers, content = server.files.get(path, (404, {}, b"nothing"))
        if content == "hang":
            server.release.wait(20)
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if isinstance(content, bytes):
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            self._misbehave(server, content)

    def _misbehave(self, server: MediaServer, content: str) -> None:
        if content == "torn":
            self.send_header("Content-Length", "1000")
        self.end_headers()
        if content == "torn":
            self.wfile.write(b"x" * 500)
        while content in ("drip", "flood") and not server.release.wait(0.02 if content == "drip" else 0):
            try:
                self.wfile.write(b"x" if content == "drip" else b"x" * 65536)
            except OSError:  # the client has had enough
                return

    def log_message(self, *given: Any) -> None:
        """Nothing."""


@contextmanager
def media_server(tls: ssl.SSLContext | None = None, **settings: Any) -> Iterator[MediaServer]:
    """A running server.

    tls   the server's certificate; `MediaServer.tls` is what clients trust
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    media = server.media = MediaServer(port=server.server_address[1], **settings)  # type: ignore[attr-defined]
    with running(server, media.release):
        yield media
