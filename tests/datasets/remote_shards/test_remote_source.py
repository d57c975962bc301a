"""Samples of remote shards: those of local shards, in an order that only the seed decides."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from chatbridge.config.schema import parse
from chatbridge.datasets.builders.web_pairs import WebPairs
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.workers.time_limit import time_limit
from tests.helpers.remote_shards import SIZES, opened, over_http, words
from tests.helpers.shard_server import serving

pytestmark = pytest.mark.usefixtures("no_waiting")


def test_samples_equal_those_of_local_shards(shards: Path):
    """fails when a remote sample differs from the local one, or a shard is downloaded more than once"""
    with serving(shards) as server:
        source = over_http(server)
        local = WebPairs(parse(WebPairs.Config, {"shards": f"{shards}/*.tar", "modality": "image"}), "pairs")
        assert len(source) == len(local) == sum(SIZES)
        assert server.asked == {"manifest.json": 1}, "no shard is downloaded before a sample is read"
        for index in np.random.default_rng(0).permutation(len(source)).tolist():
            assert source.record(index, np.random.default_rng(0)) == local.record(index, np.random.default_rng(0))
            assert source.sample_id(index) == local.sample_id(index)
        again = over_http(server)
        copy = pickle.loads(pickle.dumps({"source": source, "order": source.shuffle(0)}))
        assert copy["order"]._follow.__self__ is copy["source"]._shards, "a spawned worker follows its own window"
        assert copy["source"]._shards._forget.__self__ is copy["source"]._files
        assert words(again, 24) == words(pickle.loads(pickle.dumps(source)), 24) == "picture number 24"
        assert server.asked == dict.fromkeys([f"00{n}.tar" for n in range(5)], 1) | {"manifest.json": 1}


def test_a_download_does_not_count_as_reading_time(shards: Path):
    """fails when the limit on reading one sample ends the download of its shard"""
    with serving(shards, wait_s=0.6) as server:
        source = over_http(server, samples_per_shard=5)
        with time_limit(0.5):
            assert words(source, 0) == "picture number 0"


def test_the_order_of_a_large_source_costs_no_memory_per_sample(tmp_path: Path):
    """fails when a shuffle lists the samples: LAION's hundreds of millions would take gigabytes"""
    source = opened(tmp_path, "http://127.0.0.1:9/{000..099}.tar", samples_per_shard=10**6)
    assert len(source) == 10**8
    tracemalloc.start()
    order = source.shuffle(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7
    assert len(set(order.indices(np.arange(1000)).tolist())) == 1000


def read_steps(source: WebPairs, start: int, stop: int, offset: int, workers: int, out) -> None:
    mixture = Mixture({"pairs": source}, {"pairs": 1.0}, seed=3, global_batch=4)
    try:
        for step in range(start + offset, stop, workers):
            out.put((step, [source.sample_id(draw.index) for draw in mixture.draws(step)]))
    except BaseException as error:
        out.put((step, [f"{type(error).__name__}: {error}"]))
        raise


def in_workers(source: WebPairs, start: int, stop: int, workers: int, kill_after: int = 0) -> dict[int, list[str]]:
    """The ids of some steps, read by several processes, which may be killed."""
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    processes = [
        context.Process(target=read_steps, args=(source, start, stop, offset, workers, out))
        for offset in range(workers)
    ]
    for process in processes:
        process.start()
    found = dict(out.get(timeout=120) for _ in range(kill_after or stop - start))
    for process in processes:
        if kill_after and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
    return found


def test_ids_are_the_same_after_a_kill_with_a_different_number_of_workers(shards: Path):
    """fails when the number of workers, a kill -9 during a download, or the content of the cache changes a sample"""
    with serving(shards, wait_s=0.01) as server:
        expected = in_workers(over_http(server, window_shards=2, cache_folder=str(shards / "other")), 0, 20, 1)
        server.asked.clear()
        together = over_http(server, window_shards=2, cache_folder=str(shards / "together"))
        assert in_workers(together, 0, 20, 3) == expected
        assert set(server.asked.values()) == {1}, "one process downloads, the others wait"
        source = over_http(server, window_shards=2, cache_gb=5e-5)
        killed = in_workers(source, 0, 20, 4, kill_after=3)
        assert all(expected[step] == ids for step, ids in killed.items())
        resumed = in_workers(over_http(server, window_shards=2, cache_gb=5e-5), 5, 20, 2)
        assert resumed == {step: expected[step] for step in range(5, 20)}
