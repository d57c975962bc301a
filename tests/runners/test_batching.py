"""Padded, grouped and packed batches of a real model: one loss, one gradient, whatever ranks and micro-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.batching_world import (
    BATCHINGS,
    GLOBAL_BATCH,
    SPLITS,
    BatchingWorld,
    largest_difference,
    loss_and_gradients,
    world_of_lengths,
)
from tests.helpers.mini_world import MiniWorld

RELATIVE = 1e-6  # fp32


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return world_of_lengths(tmp_path_factory.mktemp("world"))


def test_every_batching_and_split_has_the_gradient_of_one_big_batch(world: MiniWorld, tmp_path: Path) -> None:
    """fails when grouping or packing changes a loss or a gradient, or ranks and micro-batches of unequal rows count
    differently; images, videos and audio are mixed"""
    whole = BatchingWorld(world, tmp_path, {})
    [[big]] = whole.steps(1, 1)
    assert len(big.sources) == GLOBAL_BATCH and set(big.media) == {"image", "video", "audio"}
    loss, wanted = loss_and_gradients(whole.model, [big])
    assert any(name.startswith("bridges") for name in wanted) and any(name.startswith("language") for name in wanted)
    positions = {}
    for name, settings in BATCHINGS.items():
        own = BatchingWorld(world, tmp_path, settings)
        for num_ranks, accumulate in SPLITS:
            batches = [batch for rank in own.steps(num_ranks, accumulate) for batch in rank]
            assert sorted(one for batch in batches for one in batch.sample_ids) == sorted(big.sample_ids)
            got, gradients = loss_and_gradients(own.model, batches)
            assert got == pytest.approx(loss, rel=RELATIVE), (name, num_ranks)
            assert largest_difference(gradients, wanted) < RELATIVE, (name, num_ranks)
            positions[name, num_ranks] = sum(batch.num_positions for batch in batches)
    tokens = big.num_tokens
    for num_ranks, _ in SPLITS:
        assert (
            tokens <= positions["packed", num_ranks] < positions["grouped", num_ranks] < positions["padded", num_ranks]
        )


@pytest.mark.slow
def test_two_processes_equal_one_big_batch(world: MiniWorld, tmp_path: Path, ranks: Any) -> None:
    """fails when ranks read overlapping slices, have different numbers of micro-batches, or the sum over ranks counts
    rows in place of supervised tokens"""
    script = Path(__file__).parents[1] / "helpers" / "ranks_batching.py"
    printed = ranks(script, str(world.folder), str(tmp_path)).stdout
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("ok: ")] == list(BATCHINGS)
