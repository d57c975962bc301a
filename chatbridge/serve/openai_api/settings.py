"""Settings of the server that do not belong to a model."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from chatbridge.common.errors import Problem
from chatbridge.config.constraints import Exists, Range, Unit
from chatbridge.serve.media_sources import SourceLimits

BYTES_PER_MB = 1_000_000
LOOPBACK = ("127.0.0.1", "::1", "localhost")
ORIGIN = re.compile(r"https?://[^/\s]+")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What the server accepts, and from whom. The defaults suit one machine that asks itself."""

    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0 and :: accept other machines
    port: Annotated[int, Range(low=0, high=65535)] = 8000  # 0: any free one
    model_name: tuple[str, ...] = ()  # names of the model in requests; the first one is in the answers
    max_requests: Annotated[int, Range(low=1)] = 256  # requests at once; beyond them the answer is 429
    # open connections; further ones take the places of those that ask nothing. The limit of open files (ulimit -n)
    # counts too
    max_connections: Annotated[int, Range(low=1)] = 512
    max_choices: Annotated[int, Range(low=1)] = 8  # answers of one request (n)
    max_messages: Annotated[int, Range(low=1)] = 1000  # messages of one request
    max_body_mb: Annotated[float, Unit("MB"), Range(above=0)] = 128.0  # of one request; a third of base64 is overhead
    # all request bodies in memory together; a request waits for its place
    max_bodies_mb: Annotated[float, Unit("MB"), Range(above=0)] = 1024.0
    body_time_limit_s: Annotated[float, Unit("seconds"), Range(above=0)] = 120.0  # until a request has arrived whole
    # of one answer, from its request; a request may ask for less. It ends as an answer of the longest length does
    time_limit_s: Annotated[float, Unit("seconds"), Range(above=0)] | None = 600.0
    shutdown_s: Annotated[float, Unit("seconds"), Range(low=0)] = 30.0  # after SIGTERM, for running answers to end
    tls_certificate: Annotated[Path, Exists("file")] | None = None  # PEM, with its chain; serves https
    tls_key: Annotated[Path, Exists("file")] | None = None  # PEM, without a password
    cors_origins: tuple[str, ...] = ()  # web pages that may ask from a browser, as https://example.org; "*": any page
    # host names by which clients reach the server; none: any, but only localhost where no API key protects it
    allowed_hosts: tuple[str, ...] = ()
    # file:// addresses below this folder are read; without one they are refused
    media_root: Annotated[Path, Exists("folder")] | None = None
    allow_remote: bool = False  # fetch media from http(s) addresses, never from private networks
    allow_anonymous: bool = False  # accept other machines without an API key
    sources: SourceLimits = field(default_factory=SourceLimits)  # of fetching media
    # a line in the log for each request: its id, status and seconds, never its content
    log_requests: bool = True
    key_for_metrics: bool = False  # /metrics asks for the API key too

    def problems(self) -> Iterator[Problem]:
        """Settings that contradict each other."""
        if self.max_bodies_mb < self.max_body_mb:
            hint = f"at least {self.max_body_mb:g}, the value of max_body_mb"
            yield Problem("max_bodies_mb", f"is {self.max_bodies_mb:g}, less than one request may have", hint=hint)
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, other = ("tls_certificate", "tls_key") if self.tls_key is None else ("tls_key", "tls_certificate")
            yield Problem(given, f"has no effect without {other}", hint="give both, or neither for plain http")
        elif fault := self._tls_fault:
            yield Problem(
                "tls_certificate", f"and tls_key cannot be used: {fault}", hint="both are files in PEM format"
            )
        for at, origin in enumerate(self.cors_origins):
            if origin != "*" and not ORIGIN.fullmatch(origin):
                hint = "scheme and host without a path, as https://example.org"
                yield Problem(f"cors_origins.{at}", f"is not the origin of a page: {origin!r}", hint=hint)
        if any(not name.strip() for name in self.model_name):
            yield Problem("model_name", "is empty", hint="leave it out for the name of the configuration")

    @property
    def _tls_fault(self) -> str | None:
        if self.tls_certificate is None:
            return None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.tls_certificate, self.tls_key, lambda: "")
        except (OSError, ssl.SSLError) as error:
            return getattr(error, "reason", None) or error.strerror or str(error)
        return None

    @property
    def scheme(self) -> str:
        return "http" if self.tls_certificate is None else "https"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in LOOPBACK
