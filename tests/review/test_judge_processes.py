"""`chatbridge review judge` in several processes at once, some of which are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.judge_server import judge_server
from tests.helpers.review_files import ReviewWorld

COUNT = 60


def start(given: list[str], *more: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen([sys.executable, "-m", "chatbridge", *given, *more], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def reviews(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_chunks_twice_over_share_one_file_and_some_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a review is lost, torn or written twice, or a request is made twice by processes that run together or
    after a kill"""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    world, busy, most_busy, lock = ReviewWorld(tmp_path, COUNT), 0, 0, threading.Lock()

    def behave(number: int, body: dict[str, Any]) -> Any:
        nonlocal busy, most_busy
        with lock:
            busy, most_busy = busy + 1, max(most_busy, busy + 1)
        time.sleep(0.15)
        with lock:
            busy -= 1
        return (500, {}) if number % 11 == 5 else f"8 {number % 10}"

    with judge_server(behave=behave) as server:
        given = world.command(server.url, "--threads", "2", "--num-chunks", "3", "--chunk-idx")
        first = [start(given, str(chunk)) for chunk in (0, 0, 1, 1, 2, 2)]
        while len(server.requests) < COUNT // 3:
            time.sleep(0.02)
        killed = first[:4]
        for one in killed:
            one.send_signal(signal.SIGKILL)
        for one in first:
            one.communicate(timeout=120)
        assert [one.returncode for one in first] == [-signal.SIGKILL] * 4 + [0, 0]
        again = [start(given, str(chunk)) for chunk in (0, 1)]
        output = [one.communicate(timeout=120)[0] for one in again]
        assert [one.returncode for one in again] == [0, 0], output
        last = start(given, "2")
        assert "20 reviewed already" in last.communicate(timeout=120)[0]
    rows = reviews(world.path("reviews"))
    assert [row["id"] for row in rows] == list(range(1, COUNT + 1))
    failed = sum(number % 11 == 5 for number in range(len(server.requests)))
    lost = len(server.requests) - failed - COUNT  # replies on their way to a process that was killed
    assert 0 <= lost <= 2 * len(killed) and most_busy > 2
    assert not list(tmp_path.rglob("*.lock")) and not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_processes_share_the_limit_of_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when two processes with one cache start more requests per minute than one may"""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    world = ReviewWorld(tmp_path, 12)
    with judge_server() as server:
        given = world.command(server.url, "--requests-per-minute", "300", "--num-chunks", "2", "--chunk-idx")
        both = [start(given, str(chunk)) for chunk in (0, 1)]
        assert [one.wait(120) for one in both] == [0, 0]
    assert server.times[-1] - server.times[0] >= 1.6  # 11 gaps of 0.2 s, less the start of the client; alone 1.0 s


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_paid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when Ctrl-C loses a reply that is on its way, ends in a traceback, or the command cannot continue"""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    world = ReviewWorld(tmp_path, 12)
    with judge_server(behave=lambda n, body: time.sleep(0.3) or "8 9") as server:
        given = world.command(server.url, "--threads", "2")
        one = start(given)
        while len(server.requests) < 4:
            time.sleep(0.02)
        one.send_signal(signal.SIGINT)
        output = one.communicate(timeout=60)[0]
        assert one.returncode == 130 and "Traceback" not in output and "chatbridge: stopped" in output
        assert len(reviews(world.path("reviews"))) == len(server.requests) < 12
        assert start(given).wait(60) == 0 and len(server.requests) == 12
    assert len(reviews(world.path("reviews"))) == 12
