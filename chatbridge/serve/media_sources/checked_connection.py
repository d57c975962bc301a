"""Connections to checked addresses only, within one time limit.

A host is resolved once; all of its addresses are checked, and the connection goes to one of these very addresses. A
second answer of the name server (DNS rebinding) is never asked for. TLS still verifies the certificate of the host's
name, and the request still carries it.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import httpcore
import httpx

from chatbridge.serve.media_sources.public_address import is_misspelled_number, is_public
from chatbridge.serve.media_sources.source_error import SourceError, shortened

POLL_S = 0.25  # between two looks at whether the request has ended


@dataclass(frozen=True)
class Patience:
    """How long one download may take.

    end         time.monotonic() of its end
    connect_s   for a name, and for a connection
    read_s      between two pieces
    is_stopped  whether nobody waits for it any more
    """

    end: float
    connect_s: float
    read_s: float
    is_stopped: Callable[[], bool] = lambda: False

    def left(self, most_s: float) -> float:
        """Seconds that the next step may take. raises SourceError when the time is over, or nobody waits"""
        if self.is_stopped():
            raise SourceError(408, "the request ended while its media were downloaded")
        left = self.end - time.monotonic()
        if left <= 0:
            raise SourceError(504, "the download took too long")
        return min(left, most_s)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, in the order of the system's preference. raises OSError"""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def connect(address: str, port: int, timeout_s: float) -> httpcore.NetworkStream:
    """A connection to an address. raises OSError, also where it leads to this machine itself"""
    stream = httpcore.SyncBackend().connect_tcp(address, port, timeout=timeout_s)
    open_socket = stream.get_extra_info("socket")
    if open_socket.getpeername()[0] == open_socket.getsockname()[0]:  # a public address of this machine
        stream.close()
        raise ConnectionRefusedError("it is an address of this server itself")
    return stream


@lru_cache(maxsize=1)
def usual_certificates() -> ssl.SSLContext:
    """The certificates that https trusts; SSL_CERT_FILE of the server's environment replaces them. Reading them takes
    tens of milliseconds, so all downloads share them."""
    return httpx.create_ssl_context()


@dataclass(frozen=True)
class Network:
    """How hosts are resolved and connected to, and the certificates of https."""

    resolve: Callable[[str, int], Sequence[str]] = resolve
    connect: Callable[[str, int, float], httpcore.NetworkStream] = connect
    tls: ssl.SSLContext = field(default_factory=usual_certificates, compare=False)


class CheckedBackend(httpcore.NetworkBackend):
    """The network of one download; see the module."""

    def __init__(self, network: Network, patience: Patience) -> None:
        self.network, self.patience = network, patience

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address that accepts one. raises SourceError unless all of them are public"""
        reason = "it has no address"
        for address in checked_addresses(host, port, self.network, self.patience):
            try:
                stream = self.network.connect(address, port, self.patience.left(self.patience.connect_s))
                return _TimedStream(stream, self.patience)
            except (OSError, httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                reason = "it does not answer" if isinstance(error, httpcore.ConnectTimeout) else str(error)
        raise SourceError(502, f"{host}: cannot connect ({reason})")


def checked_addresses(host: str, port: int, network: Network, patience: Patience) -> list[str]:
    """The addresses of a host, all of them public. raises SourceError"""
    host = host.strip("[]")
    if is_misspelled_number(host):
        raise SourceError(
            403, f"{shortened(host)}: write an IPv4 address as four decimal numbers, or give the host's name"
        )
    addresses = _resolved(host, port, network, patience)
    if not addresses:
        raise SourceError(502, f"{shortened(host)}: no such host")
    if not all(map(is_public, addresses)):  # one of several too: such a name is made for rebinding
        raise SourceError(403, f"{shortened(host)} is not a host of the public internet; send the file as a data URL")
    return addresses


def _resolved(host: str, port: int, network: Network, patience: Patience) -> list[str]:
    """The addresses of a host. The system's resolver has no time limit, so a thread of its own waits for it."""
    answers: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(list(network.resolve(host, port)))
        except (OSError, UnicodeError) as error:  # unknown, or a label of more than 63 characters
            answers.put(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        found = answers.get(timeout=patience.left(patience.connect_s))
    except queue.Empty:
        raise SourceError(504, f"{shortened(host)}: its name server does not answer") from None
    if isinstance(found, Exception):
        raise SourceError(502, f"{shortened(host)}: no such host ({getattr(found, 'strerror', None) or found})")
    return found


class _TimedStream(httpcore.NetworkStream):
    """A stream whose every step ends with the download's time, or when nobody waits for it any more."""

    def __init__(self, stream: httpcore.NetworkStream, patience: Patience) -> None:
        self.stream, self.patience = stream, patience

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        end = time.monotonic() + self.patience.read_s
        while True:
            try:
                return self.stream.read(max_bytes, self.patience.left(POLL_S))
            except httpcore.ReadTimeout:
                if time.monotonic() >= end:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, self.patience.left(self.patience.read_s))

    def close(self) -> None:
        self.stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        limit = self.patience.left(self.patience.connect_s)
        return _TimedStream(self.stream.start_tls(ssl_context, server_hostname, limit), self.patience)

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)
