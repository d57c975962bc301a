"""Bodies that are too large, too slow or cut off, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.helpers.api_server import RunningServer, running, wait_until
from tests.helpers.scripted_backend import ScriptedBackend

GB = 2**30
QUESTION = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "a"}]}).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    limits = {"max_body_mb": 1.0, "max_bodies_mb": 2.0, "body_time_limit_s": 0.1, "max_requests": 8}
    with running(ScriptedBackend(), **limits) as one:
        yield one


class Connection:
    """A client that speaks HTTP by hand."""

    def __init__(self, server: RunningServer, *headers: str) -> None:
        self.socket = socket.create_connection(server.host, timeout=10)
        lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def reply(self) -> str:
        """The response as far as it came, until the server closed the connection or sent a whole JSON body."""
        found = b""
        while not found.rstrip().endswith(b"}"):
            piece = self.socket.recv(65536)
            if not piece:
                break
            found += piece
        self.socket.close()
        return found.decode()


def test_a_body_of_two_gigabytes_is_refused_before_it_is_sent(server):
    """Fails when a server reads a body whose declared size is beyond its limit."""
    reply = Connection(server, f"Content-Length: {2 * GB}").reply()
    assert reply.startswith("HTTP/1.1 413") and "connection: close" in reply.lower() and "--max-body-mb" in reply


def test_a_body_that_declares_no_size_ends_at_the_limit(server):
    """Fails when chunks are collected without end."""
    one = Connection(server, "Transfer-Encoding: chunked")
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    num_sent = 0
    try:
        for _ in range(1000):
            one.socket.sendall(piece)
            num_sent += 1
    except OSError:  # the server has closed the connection
        pass
    assert num_sent < 1000
    after = Connection(server, f"Content-Length: {len(QUESTION)}")
    after.socket.sendall(QUESTION)
    assert after.reply().startswith("HTTP/1.1 200")


def test_a_body_that_does_not_arrive_is_given_up(server):
    """Fails when a client holds a place, and memory for its body, by sending nothing more."""
    waiting = [Connection(server, "Content-Length: 900000") for _ in range(4)]  # two fit into memory at a time
    for one in waiting:
        one.socket.sendall(b'{"model"')
    assert all(one.reply().startswith("HTTP/1.1 408") for one in waiting)
    wait_until(lambda: not server.server.gate.num_running)


def test_a_client_that_leaves_within_its_body_frees_its_place(server):
    """Fails when half a request keeps its place."""
    one = Connection(server, "Content-Length: 900000")
    one.socket.sendall(b'{"model"')
    wait_until(lambda: server.server.gate.num_running == 1)
    one.socket.close()
    wait_until(lambda: not server.server.gate.num_running)


@pytest.mark.slow
def test_memory_for_bodies_is_given_back(server):
    """Fails when refused, cut and complete bodies together leave less room than before: then requests wait for ever."""

    def ask(number: int) -> None:
        one = Connection(server, f"Content-Length: {len(QUESTION) if number % 3 else 900_000}")
        one.socket.sendall(QUESTION[: 10 if number % 3 == 1 else None])
        if number % 3 == 1:
            one.socket.close()
        else:
            found.append(one.reply()[:12])

    found: list[str] = []
    for _ in range(3):
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(set(found)) == ["HTTP/1.1 200", "HTTP/1.1 408"] and len(found) == 12
