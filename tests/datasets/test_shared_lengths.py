"""Lengths in shared memory: never another draw's, whatever is written at the same time."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from chatbridge.common.dist import Dist
from chatbridge.datasets.order.mixture import Draw
from chatbridge.datasets.shared_lengths import LengthTable, SharedLengths

NAMES = ("a", "b")


def length(draw: Draw) -> int:
    return 3 + draw.drawn * 7919 % 997 + (1000 if draw.source == "b" else 0)


class Measured:
    """Measures, and remembers what."""

    def __init__(self) -> None:
        self.draws: list[Draw] = []

    def __call__(self, draws: Sequence[Draw]) -> list[int]:
        self.draws += draws
        return [length(draw) for draw in draws]


def step(number: int, count: int = 100) -> list[Draw]:
    return [Draw(NAMES[at % 2], at, number * count + at) for at in range(count)]


def test_a_length_is_measured_once_and_is_that_of_its_draw() -> None:
    """fails when a process measures what another has measured, or takes the length of another draw"""
    table, first, second = LengthTable(), Measured(), Measured()
    one, other = SharedLengths(first, NAMES, table), SharedLengths(second, NAMES, table, rank=1, world=2)
    for number in range(20):
        assert one(step(number)) == other(step(number)) == [length(draw) for draw in step(number)]
    assert len(first.draws) == 2000 and not second.draws
    for part in ([Draw("b", 5, 4)], step(0)[:5], step(0)[:16], step(0)[:17]):  # drawn 4 is of source a
        assert SharedLengths(first, NAMES, table)(part) == [length(draw) for draw in part]


def test_later_draws_replace_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a full table gives the length of the draw that had the slot before"""
    monkeypatch.setattr("chatbridge.datasets.shared_lengths.SLOTS", 4)
    lengths = SharedLengths(Measured(), NAMES, LengthTable())
    for number in (0, 1, 0, 7, 1):
        assert lengths(step(number)) == [length(draw) for draw in step(number)]


def test_half_a_write_is_not_read() -> None:
    """fails when a slot whose words are of different chunks is taken for one of them"""
    table = LengthTable()
    lengths = SharedLengths(Measured(), NAMES, table)
    lengths(step(0))
    assert table.words is not None
    table.words[:, 2] ^= np.uint64(1)
    again = Measured()
    assert SharedLengths(again, NAMES, table)(step(0)) == [length(draw) for draw in step(0)] and len(again.draws) == 100


def test_forked_processes_share_and_others_measure_for_themselves() -> None:
    """fails when workers do not see what another one measured, or a spawned worker cannot start"""
    table, mine = LengthTable(), Measured()
    worker = multiprocessing.get_context("fork").Process(
        target=SharedLengths(Measured(), NAMES, table), args=(step(3),)
    )
    worker.start()
    worker.join()
    assert SharedLengths(mine, NAMES, table)(step(3)) == [length(draw) for draw in step(3)] and not mine.draws
    spawned = pickle.loads(pickle.dumps(SharedLengths(Measured(), NAMES, table)))
    assert spawned(step(3)) == [length(draw) for draw in step(3)] and len(spawned.measure.draws) == 100


def test_the_table_of_a_machine_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a launch leaves a file behind, or a rank without one cannot start"""
    opened, keep = [], open

    def noted(path: str, *more: str) -> Any:
        opened.append(path)
        return keep(path, *more)

    monkeypatch.setattr("builtins.open", noted)
    table = LengthTable.shared(Dist())
    assert table.words is not None and len(opened) == 1
    with pytest.raises(FileNotFoundError):
        keep(opened[0])
    assert LengthTable.shared(Dist(local_rank=1)).words is not None
