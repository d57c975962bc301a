"""Time and memory of a mixture of the size of the published runs."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path
from time import process_time

import pytest

from chatbridge.datasets.order.mixture import Mixture
from tests.datasets.order.test_mixture import mixture


def test_seek_cost(capsys):
    """fails when a seek to the end of a published run is not immediate or a step needs noticeable time"""
    weights = (3e6, 12e6, 200e6, 3e6, 1e6, 1e6)
    several = mixture(sizes=[int(w) for w in weights], weights=weights, global_batch=512)
    begin = process_time()  # of this process: other work on the machine does not count
    several.draws(200_000)
    seek = process_time() - begin
    for step in range(200_000, 200_100):
        several.draws(step)
    each = (process_time() - begin - seek) / 100
    print(f"seek {seek * 1000:.1f} ms, step {each * 1000:.2f} ms")
    assert seek < 20 and each < 1  # a walk over the steps before takes minutes on any machine
    assert len(pickle.dumps(several)) < 5_000_000


class Long:
    """A source of which only the length exists."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size


@pytest.mark.parametrize("mix", ["sample", "step", "micro"])
def test_220_million_weighted_samples_cost_no_more_than_a_block(mix):
    """fails when the stage-1 mixture lists its weights, samples or steps (1.8 GB), or a seek walks over them"""
    weights = {"cc3m": 3e6, "cc12m": 12e6, "laion": 200e6, "webvid": 3e6, "audioset_sl": 1e6, "freesound": 1e6}
    assert sum(weights.values()) == 220e6
    sources = {name: Long(int(weight)) for name, weight in weights.items()}
    mixture().draws(0)  # the first call includes memory of numpy
    before, begin = resident_mb(), process_time()
    tracemalloc.start()
    try:
        several = Mixture(sources, weights, 42, 2048, mix, micro_batch=64)
        drawn = [several.draws(step) for step in (0, 200_000)]
        peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
    seconds, growth_mb = process_time() - begin, resident_mb() - before
    print(f"{mix}: peak {peak_mb:.1f} MB, resident {growth_mb:+.1f} MB, {seconds:.2f} s")
    assert [len(step) for step in drawn] == [2048, 2048]
    assert peak_mb < 16 and growth_mb < 200 and seconds < 50  # a list of samples or steps takes gigabytes and minutes
    assert max(draw.index for draw in drawn[1] if draw.source == drawn[1][0].source) < len(sources[drawn[1][0].source])


def resident_mb() -> float:
    """Memory of this process; 0 where the system does not tell."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if pages.exists() else 0.0
