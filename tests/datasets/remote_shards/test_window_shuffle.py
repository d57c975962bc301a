"""The bounded shuffle: arithmetic over shards and windows."""

from __future__ import annotations

import logging
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from chatbridge.common.errors import DataError
from chatbridge.config.schema import parse
from chatbridge.datasets.builders.web_pairs import WebPairs
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.order.shuffle import FullShuffle
from chatbridge.datasets.remote_shards import window_shuffle as windows
from chatbridge.datasets.remote_shards.window_shuffle import WindowShuffle
from tests.helpers.tiny_media import pairs, write_tar

COUNTS = (5, 0, 3, 7, 4, 6, 1)
SIZE = sum(COUNTS)
SHARD_OF = np.repeat(np.arange(len(COUNTS)), COUNTS)


def shuffle_of(seed: int = 0, window: int = 3, counts: tuple[int, ...] = COUNTS, follow=None) -> WindowShuffle:
    return WindowShuffle("pairs", counts, window, seed, follow)


def test_every_pass_has_every_sample_once_in_a_different_order():
    """fails when a sample is lost or doubled at a border of shards, windows or passes"""
    for window in (1, 2, 3, 100):
        order = shuffle_of(window=window).indices(np.arange(3 * SIZE)).reshape(3, SIZE)
        assert [sorted(one) for one in order.tolist()] == [list(range(SIZE))] * 3
        assert len({tuple(one) for one in order.tolist()}) == 3
    assert shuffle_of(1).indices(np.arange(SIZE)).tolist() != shuffle_of(2).indices(np.arange(SIZE)).tolist()


def test_a_window_holds_few_shards_and_mixes_them():
    """fails when reading needs more shards than a window has, or samples of a shard come in the order of the file"""
    order = shuffle_of(counts=(50,) * 8, window=2).indices(np.arange(400))
    for start in range(0, 400, 100):
        inside = order[start : start + 100]
        assert len({index // 50 for index in inside.tolist()}) == 2
        assert abs(np.flatnonzero(np.diff(inside) == 1).size) < 10
        assert 10 < (inside[:50] // 50 == inside[0] // 50).sum() < 40


def test_the_order_is_a_function_of_the_draw_alone():
    """fails when a seek, the number of draws in a call, a copy or an earlier call changes a sample"""
    whole = shuffle_of().indices(np.arange(2 * SIZE + 9))
    one = shuffle_of()
    for drawn in (2 * SIZE + 8, 3, SIZE - 1, SIZE, 0):
        assert one.indices(np.array([drawn])) == whole[drawn]
        assert pickle.loads(pickle.dumps(one)).indices(np.array([drawn])) == whole[drawn]
    assert one.indices(np.array([40, 2, 25, 2])).tolist() == whole[[40, 2, 25, 2]].tolist()
    golden = [21, 20, 14, 5, 19, 13, 23, 24, 12, 11, 8, 9, 10, 22]
    assert whole[: len(golden)].tolist() == golden, "stopped runs resume in this order"


def window_of(drawn: int) -> list[int]:
    """The shards of the window that a draw falls into."""
    announced: list[int] = []
    shuffle_of(window=2, follow=lambda now, after: announced.extend(now)).indices(np.array([drawn]))
    return announced


def test_replacements_come_from_the_same_window():
    """fails when a replacement needs another download, is the broken sample again, or repeats"""
    order = shuffle_of(window=2)
    for drawn in (0, 7, SIZE - 1, SIZE + 3):
        index = int(order.indices(np.array([drawn]))[0])
        inside = {sample for sample in range(SIZE) if SHARD_OF[sample] in window_of(drawn)}
        found = [order.replacement(drawn, index, attempt) for attempt in range(1, len(inside))]
        assert sorted([index, *found]) == sorted(inside)
        with pytest.raises(DataError, match="increase window_shards"):
            order.replacement(drawn, index, len(inside))


def test_follow_is_called_once_per_window():
    """fails when follow misses the next window or the next pass, or is called at every step"""
    announced: list[tuple[list[int], list[int]]] = []
    order = shuffle_of(counts=(4,) * 4, window=2, follow=lambda now, after: announced.append((now, after)))
    for step in range(12):
        order.indices(np.arange(2 * step, 2 * step + 2))
    assert len(announced) == 3
    assert [now for now, _ in announced[1:]] == [after for _, after in announced[:-1]]
    assert sorted(announced[0][0] + announced[1][0]) == [0, 1, 2, 3]
    order.indices(np.array([7, 8]))
    assert len(announced[-1][0]) == 4, "a step over a border reads both windows"


def test_a_resumed_run_reports_what_it_skips(caplog, monkeypatch):
    """fails when a resume does not report the open window, or every rank and step reports it"""
    caplog.set_level(logging.INFO)
    order = shuffle_of(counts=(40,) * 4, window=2)
    order.indices(np.array([270, 271]))
    order.indices(np.array([272, 273]))
    assert caplog.text.count("resumes in pass 2, window 2 of 2: 30 of its 80 samples were drawn before") == 1
    monkeypatch.setenv("RANK", "1")
    shuffle_of().indices(np.array([90]))
    assert len(caplog.records) == 1
    assert order.description == "streams in windows of 2 shards"


def test_220_million_samples_cost_no_memory_and_little_time():
    """fails when a window or a seek costs a list of samples"""
    order = WindowShuffle("laion", [10_000] * 22_000, 4, 0)
    begun = time.process_time()
    order.indices(np.arange(10**9, 10**9 + 512))
    assert time.process_time() - begun < 20  # of this process; a walk over a billion draws takes minutes
    assert len(pickle.dumps(order)) < 2_000_000


def test_local_shards_may_be_read_in_windows_too(tmp_path: Path):
    """fails when window_shards is ignored for local files, or limit leaves the windows pointing beyond it"""
    for number in range(4):
        write_tar(tmp_path / f"{number}.tar", pairs(3, 3 * number))
    settings = {"shards": f"{tmp_path}/*.tar", "modality": "image"}
    assert isinstance(WebPairs(parse(WebPairs.Config, settings), "p").shuffle(0), FullShuffle)
    source = WebPairs(parse(WebPairs.Config, {**settings, "window_shards": 2, "limit": 7}), "p")
    mixture = Mixture({"p": source}, {"p": 1.0}, seed=0, global_batch=7)
    drawn = [draw.index for draw in mixture.draws(0)]
    assert sorted(drawn) == list(range(7))
    assert all(source.record(index, np.random.default_rng(0)) for index in drawn)


def test_a_forked_worker_announces_its_window(monkeypatch):
    """fails when a worker relies on the downloads of its parent"""
    announced: list[object] = []
    order = shuffle_of(follow=lambda now, after: announced.append(now))
    order.indices(np.array([0]))
    child = os.getpid() + 1
    monkeypatch.setattr(windows.os, "getpid", lambda: child)
    order.indices(np.array([0]))
    assert len(announced) == 2 and announced[0] == announced[1]
