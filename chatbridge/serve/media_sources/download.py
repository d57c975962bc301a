"""Content of an http(s) address on the public internet.

Every hop is checked like the first address. Nothing is decompressed (a small answer may unpack to gigabytes), no proxy
of the environment, no cookie and no password is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import unquote

import httpcore
import httpx

from chatbridge import __version__
from chatbridge.serve.media_sources.checked_connection import CheckedBackend, Network, Patience
from chatbridge.serve.media_sources.content import Content
from chatbridge.serve.media_sources.content_types import main_type
from chatbridge.serve.media_sources.limits import SourceLimits
from chatbridge.serve.media_sources.source_error import SourceError, shortened

LONGEST_ADDRESS = 8192  # characters
REDIRECTS = (301, 302, 303, 307, 308)
MISSING = (404, 410)
HEADERS = (
    (b"User-Agent", f"ChatBridge/{__version__}".encode()),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"identity"),
)


@contextmanager
def remote_file(
    url: str, limits: SourceLimits, network: Network, is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[Content]:
    """The content of an http(s) address. raises SourceError, also while its chunks are read"""
    patience = Patience(time.monotonic() + limits.total_s, limits.connect_s, limits.read_s, is_stopped)
    target = parsed(url, limits)
    with ExitStack() as stack:
        backend = CheckedBackend(network, patience)
        pool = stack.enter_context(httpcore.ConnectionPool(ssl_context=network.tls, network_backend=backend))
        for _ in range(limits.max_redirects + 1):
            with _reasons(target):
                response = stack.enter_context(pool.stream("GET", _exact(target), headers=_headers(target)))
            if response.status not in REDIRECTS:
                break
            target = _next(target, _header(response, b"location"), limits)
        else:
            raise SourceError(502, f"{shown(url)}: more than {limits.max_redirects} redirects")
        _check(response, target)
        type_, length = main_type(_header(response, b"content-type")), _header(response, b"content-length")
        name = unquote(target.path).rpartition("/")[2]
        yield Content(_chunks(response, target), shown(url), type_, name, int(length) if length.isdecimal() else None)


def shown(url: httpx.URL | str) -> str:
    """An address for messages: without its query and fragment, which may hold a signature, and without a password."""
    try:
        parsed_url = httpx.URL(url)
        host = parsed_url.host  # decodes international names
    except (httpx.InvalidURL, ValueError):
        return "the address"
    port = f":{parsed_url.port}" if parsed_url.port else ""
    return shortened(f"{parsed_url.scheme}://{host}{port}{parsed_url.path}")


def parsed(url: str, limits: SourceLimits) -> httpx.URL:
    """The parts of an address that may be asked for, as far as it shows without a connection. raises SourceError"""
    if len(url) > LONGEST_ADDRESS:
        raise SourceError(400, f"the address has {len(url):,} characters, at most {LONGEST_ADDRESS:,} are accepted")
    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise SourceError(400, f"{shortened(url.partition('?')[0])} is not a valid address: {error}") from None
    return _accepted(found, limits)


def _accepted(url: httpx.URL, limits: SourceLimits) -> httpx.URL:
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise SourceError(400, f"{shown(url)} is not an http or https address with a host")
    if url.userinfo:
        raise SourceError(400, f"{shown(url)}: an address with a user name or password is not accepted")
    port = url.port or (443 if url.scheme == "https" else 80)
    if not 0 < port < 65536:
        raise SourceError(400, f"{shown(url)}: {port} is not a port")
    if limits.ports and port not in limits.ports:
        accepted = ", ".join(map(str, limits.ports))
        raise SourceError(403, f"{shown(url)}: port {port} is not accepted, only {accepted}")
    host = url.raw_host.decode("ascii").lower().rstrip(".")
    names = [name.lower() for name in limits.hosts]
    if names and not any(host == name or host.endswith(f".{name}") for name in names):
        raise SourceError(403, f"{shown(url)}: this server downloads from {', '.join(limits.hosts)} only")
    return url


def _next(url: httpx.URL, location: str, limits: SourceLimits) -> httpx.URL:
    """The address that a redirect leads to."""
    if not location:
        raise SourceError(502, f"{shown(url)}: a redirect without an address")
    try:
        target = url.join(location)
    except (httpx.InvalidURL, ValueError):
        raise SourceError(502, f"{shown(url)}: redirects to an address that is not valid") from None
    return _accepted(target, limits)


def _exact(url: httpx.URL) -> httpcore.URL:
    """The parts as they were checked; no second parser reads the text of an address."""
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _headers(url: httpx.URL) -> list[tuple[bytes, bytes]]:
    return [(b"Host", url.netloc), *HEADERS]


def _header(response: httpcore.Response, name: bytes) -> str:
    """The value of a header; "" if it is not there."""
    return next((value.decode("latin-1").strip() for key, value in response.headers if key.lower() == name), "")


def _check(response: httpcore.Response, url: httpx.URL) -> None:
    if response.status in MISSING:
        raise SourceError(404, f"{shown(url)}: no such file there (status {response.status})")
    if response.status != 200:
        raise SourceError(502, f"{shown(url)}: the server there answers with status {response.status}")
    packing = _header(response, b"content-encoding").lower()
    if packing not in ("", "identity"):
        raise SourceError(502, f"{shown(url)}: comes packed as {shortened(packing)}, which was not asked for")


def _chunks(response: httpcore.Response, url: httpx.URL) -> Iterator[bytes]:
    with _reasons(url):
        yield from response.iter_stream()


@contextmanager
def _reasons(url: httpx.URL) -> Iterator[None]:
    """Every error of the connection becomes a SourceError that names the address."""
    slow: tuple[Any, ...] = (httpcore.TimeoutException, TimeoutError)
    try:
        yield
    except SourceError as error:
        raise SourceError(error.status, f"{shown(url)}: {error!s}") from None
    except slow:
        raise SourceError(504, f"{shown(url)}: the server there is too slow") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
        raise SourceError(502, f"{shown(url)}: the download failed ({str(error) or type(error).__name__})") from None
