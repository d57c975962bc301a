"""Samples that a run keeps for validation: chosen by arithmetic, and never drawn for training.

Which samples of a source are held out is a pure function of (seed, source, its size, their number). The others are
drawn as if the source had only those, so every pass has each of them once, and a resume is still an integer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chatbridge.common import seeds
from chatbridge.datasets.order.permutation import permute
from chatbridge.datasets.order.shuffle import FullShuffle, Shuffle

NONE: NDArray[np.int64] = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class RestShuffle:
    """The order of a source without its held-out samples.

    inner   the order of as many samples as are left
    held    int64[H], the held-out samples, ascending
    """

    inner: FullShuffle
    held: NDArray[np.int64]
    description: str = field(default="", init=False)

    def indices(self, drawn: NDArray) -> NDArray[np.int64]:
        return self._samples(self.inner.indices(drawn))

    def replacement(self, drawn: int, index: int, attempt: int) -> int:
        rank = index - int(np.searchsorted(self.held, index))  # among the samples that are left
        return int(self._samples(np.array([self.inner.replacement(drawn, rank, attempt)]))[0])

    def _samples(self, ranks: NDArray) -> NDArray[np.int64]:
        """The samples at these positions among those that are left: int64[n] -> int64[n]."""
        return ranks + np.searchsorted(self.held - np.arange(len(self.held)), ranks, side="right")


def held_out(source: str, size: int, number: int, seed: int) -> NDArray[np.int64]:
    """The samples of a source that are held out, int64[number], ascending. raises ValueError for more than there are"""
    if number > size:
        raise ValueError(f"{number} of {size} samples")
    return np.sort(permute(np.arange(number), size, seeds.number(seed, f"held out/{source}")))


def without_held_out(shuffle: Shuffle, number: int) -> tuple[Shuffle, NDArray[np.int64]]:
    """The order of a source after `number` of its samples are held out, and these samples.

    A source with an order of its own (remote shards, which are streamed) holds out none.
    """
    if not number or not can_hold_out(shuffle):
        return shuffle, NONE
    assert isinstance(shuffle, FullShuffle)
    held = held_out(shuffle.source, shuffle.size, number, shuffle.seed)
    return RestShuffle(FullShuffle(shuffle.source, shuffle.size - number, shuffle.seed), held), held


def can_hold_out(shuffle: Shuffle) -> bool:
    """Whether the samples of a source can be drawn one by one, in any order."""
    return isinstance(shuffle, FullShuffle | RestShuffle)
