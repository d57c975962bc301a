"""Connections that ask nothing do not take the places of others."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from chatbridge.serve.openai_api import http_server
from chatbridge.serve.openai_api.connections import RESERVED, CheckedConnection, connection_class, most_connections
from tests.helpers.api_server import RunningServer, running
from tests.helpers.scripted_backend import ScriptedBackend

HALF = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """At most two connections, looked at ten times a second."""
    monkeypatch.setattr(http_server, "connection_class", lambda wanted: connection_class(wanted, 0.1))
    with running(ScriptedBackend(), max_connections=2) as one:
        yield one


def opened(server: RunningServer, text: bytes) -> socket.socket:
    found = socket.create_connection(server.host, timeout=10)
    found.sendall(text)
    return found


def is_closed(one: socket.socket) -> bool:
    """Waits for it, whatever else is sent before."""
    try:
        while one.recv(1000):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def test_a_request_that_does_not_arrive_is_given_up(server: RunningServer):
    """fails when half a head, sent slowly, holds a connection for ever; or one that has just asked is closed"""
    with opened(server, HALF) as slow, opened(server, b"") as silent:
        assert is_closed(slow) and is_closed(silent)
    with opened(server, HALF + b"\r\n") as quick:
        assert quick.recv(1000).startswith(b"HTTP/1.1 200")
        assert is_closed(quick)  # and then asked nothing more


def test_whoever_asks_nothing_makes_room():
    """fails when silent connections up to the limit keep others out, or one that is being answered is closed"""
    backend = ScriptedBackend()
    with (
        running(backend, max_connections=2) as server,
        opened(server, HALF) as first,
        opened(server, HALF),
        opened(server, HALF + b"\r\n") as third,
    ):
        assert third.recv(1000).startswith(b"HTTP/1.1 200")
        assert is_closed(first)
    busy = [fake(has_asked=True) for _ in range(2)]
    assert not fake(busy)._make_room()
    waiting = fake(begun=2.0)
    assert fake([*busy, waiting, fake(begun=3.0)])._make_room() and waiting.transport.is_closing()


def fake(others: Sequence[Any] = (), has_asked: bool = False, begun: float = 0.0) -> Any:
    one: Any = CheckedConnection.__new__(CheckedConnection)
    one.connections, one._begun, closed = {*others}, begun, []
    one.cycle = SimpleNamespace(response_complete=False) if has_asked else None
    one.transport = SimpleNamespace(abort=lambda: closed.append(1), is_closing=lambda: bool(closed))
    return one


def test_an_answer_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """fails when clients that never read take all places; one that reads slowly must get everything"""
    closed: list[int] = []
    kind = connection_class(5, 1000.0)
    one: Any = kind.__new__(kind)
    one.cycle, one.loop = type("Cycle", (), {"response_complete": False}), type("Loop", (), {"call_later": print})
    one.transport = type(
        "Transport", (), {"abort": lambda: closed.append(1), "get_write_buffer_size": lambda: sizes.pop(0)}
    )
    sizes = [0, 0, 900, 700, 700]
    for _ in range(5):
        assert closed == []
        one._close_if_idle()
    assert closed == [1]


def test_open_files_limit_connections(monkeypatch: pytest.MonkeyPatch):
    """fails when a process with few open files accepts connections until it can open nothing else"""
    resource = pytest.importorskip("resource")
    for limit, expected in ((1024, 500), (RESERVED + 7, 7), (20, 1), (resource.RLIM_INFINITY, 500)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=limit: (limit, limit))
        assert most_connections(500) == expected
