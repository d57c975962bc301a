"""The vLLM servers behind one front: which of them answer, and which gets the next request."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from chatbridge.common.errors import ConfigError, Problem


@dataclass
class Server:
    """One server. `Servers` guards its fields.

    url      without a path at its end: http://host:8000
    model    the name under which it serves; None: not known yet
    context  its longest sequence, tokens; None: not known
    reason   why it does not answer; None: it does
    """

    url: str
    model: str | None = None
    context: int | None = None
    reason: str | None = "was not asked yet"
    num_running: int = 0
    num_answered: int = 0
    num_failed: int = 0
    last_used: int = 0


class Servers:
    """Gives each request the server with the fewest running ones; among equals the one that was used longest ago.

    Any number of threads may use it.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        """raises ConfigError with every URL that is not one of a server"""
        if problems := list(_problems(urls)):
            raise ConfigError(problems)
        self._servers = [Server(base_url(url)) for url in dict.fromkeys(urls)]
        self._lock = threading.Lock()
        self._num_taken = 0

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(one.url for one in self._servers)

    def take(self, without: Iterable[str] = ()) -> tuple[str, str] | None:
        """URL and model of the server for a request, which `give_back` returns; None: no other one answers.

        without   URLs that this request has tried
        """
        tried = set(without)
        with self._lock:
            free = [one for one in self._servers if one.reason is None and one.url not in tried]
            if not free:
                return None
            best = min(free, key=lambda one: (one.num_running, one.last_used))
            self._num_taken += 1
            best.num_running += 1
            best.last_used = self._num_taken
            return best.url, best.model or ""

    def give_back(self, url: str, failure: str | None = None, is_down: bool = False) -> None:
        """The request is over.

        failure   why it failed
        is_down   whether the server is left out from now on, until `found` has seen it again
        """
        with self._lock:
            server = self._of(url)
            server.num_running -= 1
            server.num_answered += failure is None
            server.num_failed += failure is not None
            if is_down:
                server.reason = failure

    def found(self, url: str, model: str, context: int | None) -> bool:
        """The server answers; returns whether that is news."""
        with self._lock:
            server = self._of(url)
            was_down = server.reason is not None
            server.model, server.context, server.reason = model, context, None
            return was_down

    def lost(self, url: str, reason: str) -> bool:
        """The server does not answer; returns whether that is news."""
        with self._lock:
            server = self._of(url)
            was_up = server.reason is None
            server.reason = reason
            return was_up

    @property
    def context(self) -> int | None:
        """The longest sequence that every server which answers can take, tokens; None: not known."""
        with self._lock:
            known = [one.context for one in self._servers if one.reason is None and one.context is not None]
        return min(known, default=None)

    def problem(self) -> str | None:
        """Why no request can be answered; None where a server answers. It is for clients too, so it names no address;
        the log does."""
        with self._lock:
            if any(one.reason is None for one in self._servers):
                return None
            reasons = "; ".join(dict.fromkeys(f"it {one.reason}" for one in self._servers))
        return f"none of {len(self._servers)} vLLM servers answers: {reasons}"

    def counts(self) -> dict[str, dict[str, float]]:
        """For /metrics: of each server the running requests, those that ended well and that failed, and whether it
        answers."""
        with self._lock:
            return {
                "vllm_running": {one.url: one.num_running for one in self._servers},
                "vllm_answered_total": {one.url: one.num_answered for one in self._servers},
                "vllm_failed_total": {one.url: one.num_failed for one in self._servers},
                "vllm_up": {one.url: float(one.reason is None) for one in self._servers},
            }

    def _of(self, url: str) -> Server:
        return next(one for one in self._servers if one.url == url)


def base_url(url: str) -> str:
    """Without the path that OpenAI's clients want: http://host:8000/v1 -> http://host:8000"""
    return url.strip().rstrip("/").removesuffix("/v1").rstrip("/")


def _problems(urls: Sequence[str]) -> Iterable[Problem]:
    if not urls:
        yield Problem("--vllm-url", "is missing", hint="--vllm-url http://HOST:8000")
    for url in urls:
        if reason := _fault(url):
            yield Problem("--vllm-url", f"{reason}: {_shown(url)}", hint="expected http://HOST:PORT")


def _fault(url: str) -> str | None:
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError as error:
        return f"is not a URL ({error})"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "is not an http or https address"
    if parts.username is not None or parts.password is not None:
        return "has a password in it; set CHATBRIDGE_VLLM_KEY instead"
    return "has a query or a fragment" if parts.query or parts.fragment else None


def _shown(url: str) -> str:
    """The URL without a password."""
    head, at, rest = url.rpartition("@")
    return f"{head.partition('//')[0]}//...{at}{rest}" if at else url[:200]


__all__ = ["Server", "Servers", "base_url"]
