"""Grouped and packed steps from the loader: the same for any number of workers and ranks, from any first step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from chatbridge.common.types import Batch
from chatbridge.datasets.batching import Batching
from tests.helpers.loader_data import assert_same, broken_pictures, data, loader

BATCHINGS = [Batching("grouped", window=4), Batching("packed", token_budget=40)]
NAMES = ["grouped", "packed"]


def conversations(step: list[Batch]) -> Counter[str]:
    return Counter(name for batch in step for name in batch.sample_ids)


@pytest.mark.parametrize("batching", BATCHINGS, ids=NAMES)
def test_workers_and_the_first_step_change_nothing(tmp_path: Path, batching: Batching) -> None:
    """fails when a step depends on the number of workers, on who opened a window, or on the first step"""
    config = data(tmp_path)
    alone = list(loader(config, batching=batching))
    assert_same(list(loader(config, batching=batching, num_workers=2)), alone)
    assert_same(list(loader(config, batching=batching, start_step=3)), alone[3:])


def test_ranks_share_the_slices_of_a_step(tmp_path: Path) -> None:
    """fails when ranks read overlapping slices, or a step has other micro-batches on another number of ranks"""
    config, world, accumulate, slices = data(tmp_path), 2, 2, 4
    options = {"micro_batch": 8 // slices, "batching": BATCHINGS[0], "stop_step": 3}
    whole = list(loader(config, accumulate=slices, **options))
    ranks = [list(loader(config, world, accumulate=accumulate, rank=rank, **options)) for rank in range(world)]
    for number, step in enumerate(whole):
        micros = [ranks[rank][number][micro] for micro in range(accumulate) for rank in range(world)]
        assert [one.sample_ids for one in micros] == [one.sample_ids for one in step]


@pytest.mark.parametrize("batching", [Batching("grouped"), BATCHINGS[1]], ids=NAMES)
def test_a_step_has_the_conversations_it_has_with_padded_batches(tmp_path: Path, batching: Batching) -> None:
    """fails when batching changes what a step is trained on, also where broken files are replaced; and when a failure
    is lost or counted twice"""
    config = broken_pictures(tmp_path)
    padded, other = list(loader(config)), list(loader(config, batching=batching))
    assert [conversations(step) for step in other] == [conversations(step) for step in padded]
    failures = [Counter(one for batch in step for one in batch.failures) for step in padded]
    assert sum(failures, Counter()) and failures == [
        Counter(one for batch in step for one in batch.failures) for step in other
    ]


def test_packed_rows_are_fewer_and_within_the_budget(tmp_path: Path) -> None:
    """fails when rows exceed the budget, nothing is packed, or conversations are counted as rows"""
    config = data(tmp_path)
    batches = [batch for step in loader(config, batching=Batching("packed", token_budget=100)) for batch in step]
    assert all(batch.num_conversations == len(batch.sources) == 4 > len(batch.ids) for batch in batches)
    assert all(batch.ids.shape[1] <= 100 and batch.num_tokens <= batch.num_positions for batch in batches)
