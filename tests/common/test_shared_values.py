"""Values that several processes or threads use at once, each under stress: lists, replaced files, fetching ahead."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from chatbridge.cli.data.check_report import BrokenSample, SourceReport, open_quarantine, write_quarantine
from chatbridge.common import process_pool as process_pool
from chatbridge.common.errors import DataError
from chatbridge.common.process_pool import ProcessPool
from chatbridge.common.safe_files import append_lines, replace_text
from chatbridge.common.types import Failure
from chatbridge.datasets.builders.web_pairs import WebPairs
from chatbridge.datasets.failure_log import FailureLog
from chatbridge.datasets.quarantine import read_quarantine
from chatbridge.datasets.remote_shards.addresses import RemoteShard
from chatbridge.datasets.remote_shards.source import RemoteShards
from chatbridge.datasets.tars.index import find_index, open_index
from tests.helpers.tiny_media import pairs, write_tar

PROCESSES = 4
CONTEXT = multiprocessing.get_context("fork")


def together(function: Any, *arguments: Any) -> None:
    """Call a function in several processes at once, each with its number."""
    workers = [CONTEXT.Process(target=function, args=(number, *arguments)) for number in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES


def _check_data(number: int, path: Path) -> None:
    for turn in range(15):
        open_quarantine(path)
        finding = SourceReport(f"source{number}", "records", (), 100, is_task=False)
        finding.broken.append(BrokenSample(turn, f"sample{turn}", "is broken"))
        write_quarantine(path, [finding])


def test_checks_that_write_one_list_at_the_same_time_lose_no_line(tmp_path: Path):
    """fails when two `data check --quarantine FILE` at once drop each other's lines, or one ends in a traceback"""
    path = tmp_path / "quarantine.jsonl"
    together(_check_data, path)
    assert {source: len(names) for source, names in read_quarantine(path).samples.items()} == {
        f"source{number}": 15 for number in range(PROCESSES)
    }


def _replace(number: int, path: Path) -> None:
    text = json.dumps([number] * 5000)
    for _ in range(60):
        replace_text(path, text)
        assert len(set(json.loads(path.read_text()))) == 1


def test_a_file_that_several_processes_replace_is_always_whole(tmp_path: Path):
    """fails when a reader sees half a file, or two writers take each other's temporary file away"""
    together(_replace, tmp_path / "metrics.json")
    assert len(list(tmp_path.iterdir())) == 1


def _append(number: int, path: Path) -> None:
    failure_log = FailureLog(path, {f"source{number}": 1.0})
    for turn in range(100):
        failure_log.add([Failure(f"source{number}", f"sample{turn}", "x" * (turn % 7) * 500, drawn=turn)])


def test_ranks_that_append_failures_at_once_keep_every_line(tmp_path: Path):
    """fails when lines of several ranks in failures.jsonl run into each other, or a reader counts half a line"""
    path = tmp_path / "failures.jsonl"
    failure_log = FailureLog(path, {})
    together(_append, path)
    failure_log.add([])
    assert failure_log.failed == {f"source{number}": 100 for number in range(PROCESSES)}
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 100 * PROCESSES


def _append_lines(number: int, path: Path) -> None:
    for turn in range(1000):
        append_lines(path, [json.dumps(["x" * (turn % 9) * 900, number])])


def test_a_line_that_is_being_written_is_not_taken_for_a_torn_one(tmp_path: Path):
    """fails when a process that appends meets half a line of another, and puts an empty line after it"""
    together(_append_lines, tmp_path / "lines.jsonl")
    lines = (tmp_path / "lines.jsonl").read_text().splitlines()
    assert len(lines) == 1000 * PROCESSES and all(map(json.loads, lines))


def _index(number: int, tar: Path) -> None:
    for _ in range(20):
        assert open_index(tar).count == 3
        tar.with_name(f"{tar.name}.index").unlink(missing_ok=True)
        found = find_index(tar)
        assert found is None or found.count == 3


def test_an_index_that_several_processes_make_is_always_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a process reads a side index that another one is writing"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    together(_index, write_tar(tmp_path / "a.tar", pairs(3)))


def test_a_replaced_index_is_not_read_as_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when rows of another layout are read after the tar and index of an open source were replaced"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tar = write_tar(tmp_path / "a.tar", pairs(3))
    source = WebPairs(WebPairs.Config(shards=str(tar), modality="image"), "a")
    write_tar(tar, [(f"other/folder/{name}", content) for name, content in pairs(7)])
    assert open_index(tar).count == 7
    with pytest.raises(DataError, match="was changed while it was in use"):
        source.record(2, np.random.default_rng(0))


class _Hold:
    index = cast(Any, type("Index", (), {"tar": Path("x"), "file": Path("x")}))

    def release(self) -> None: ...


class _Cache:
    def hold(self, shard: RemoteShard, wait: bool = True) -> _Hold:
        return _Hold()


@pytest.fixture
def eager_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_every_window_is_downloaded_ahead(eager_threads: None):
    """fails when the window changes just as the download thread ends, and its shards are not downloaded ahead"""
    shards = RemoteShards([RemoteShard(f"{n}.tar", 1) for n in range(6)], cast(Any, _Cache()), False, 4, lambda _: None)
    for turn in range(300):
        first = turn % 3 * 2
        shards.follow([first], [first + 1])
        shards.open(first)
        until = time.monotonic() + 60
        while set(shards._process.held) != {first, first + 1}:
            assert time.monotonic() < until, f"window {turn} is not downloaded ahead"
            time.sleep(0)


def test_a_process_pool_that_was_suspended_ends_no_worker(monkeypatch: pytest.MonkeyPatch):
    """fails when Ctrl-Z and fg during `data check` end healthy workers as hung"""
    clock = [100.0]
    monkeypatch.setattr(process_pool.time, "monotonic", lambda: clock[0])

    def wait(handles: list[Any], timeout: float | None) -> list[Any]:
        clock[0] += 3600.0  # all processes were suspended
        return []

    monkeypatch.setattr(process_pool.connection, "wait", wait)
    worker: Any = type("Worker", (), {"started": 99.0, "pipe": 1, "process": type("P", (), {"sentinel": 2})})()
    assert ProcessPool(lambda task: task, 1, time_limit_s=10.0)._ready([worker]) == []
    assert worker.started > 3600.0


def _late_task():
    time.sleep(2.0)
    yield 1


def _short_work(number: int) -> int:
    time.sleep(0.5)
    return number * 10


def test_a_process_pool_does_not_count_the_time_it_waits_for_a_task():
    """fails when a healthy worker is ended as hung because its next task arrived late"""
    assert list(ProcessPool(_short_work, 1, time_limit_s=2.3, ahead=1).results(_late_task())) == [(1, 10)]
