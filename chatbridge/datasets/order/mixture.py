"""The order of the data as a pure function of (seed, step, position). Nothing is stored, so a resume is an integer.

*The source of a draw.* Sources are drawn in units. What one unit holds is the setting `mix`: "sample", one
conversation; "step", a whole step, as in the published runs, each source with its own batch size; "micro", one slice of
`micro_batch` conversations, which is what a rank reads at once; "joint" has a mixture per stream (order/joint.py).

Units come in permutation blocks of 65,536. A block holds every source in proportion to its weight, rounded at random so
that the expectation is exact for any weights, and is shuffled by a keyed permutation. So shares are exact to one unit
per block, and how often a source was drawn before block n is arithmetic over n; only inside the open block are units
counted one by one.

*The sample of a draw.* It follows from the shuffle of the source (order/shuffle.py): most sources are shuffled as a
whole, every sample once per pass and every pass in a different order; remote shards are shuffled inside windows.

Cost, measured on a shared core with 6 sources: 35 ms to open a block, about 1 ms for the 512 draws of a step; a seek to
step 200,000 of 512 conversations opens one block, so it takes 35 ms too (test_mixture_cost.py prints both with -s).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from chatbridge.common import seeds
from chatbridge.common.errors import DataError
from chatbridge.datasets.order.held_out import without_held_out
from chatbridge.datasets.order.permutation import permute, uniform
from chatbridge.datasets.order.shuffle import shuffle_of

BLOCK = 1 << 16
Mix = Literal["sample", "step", "micro", "joint"]
SHARES = {  # mix -> what the share of a source is counted in
    "sample": "of draws", "step": "of steps", "micro": "of micro-batches", "joint": "of draws"
}  # fmt: skip


Source = TypeVar("Source", bound=Sized)


class Draw(NamedTuple):
    """One conversation of a step: sample `index` of `source`, the `drawn`-th draw of this source since step 0."""

    source: str
    index: int
    drawn: int


@dataclass(frozen=True)
class _Block:
    """One open permutation block.

    number   of the block
    before   int64[sources], units of each source in all earlier blocks
    source   int64[BLOCK], the source of each unit
    drawn    int64[BLOCK], how often this source was drawn before each unit, since step 0
    """

    number: int
    before: NDArray[np.int64]
    source: NDArray[np.int64]
    drawn: NDArray[np.int64]


class Mixture(Generic[Source]):
    """Draws from several sources by weight.

    sources       name -> a data set, or any other object with a length; the order of the names does not matter
    weights       name -> share of the units, any non-negative numbers
    global_batch  conversations per step over all ranks and micro-batches
    batches       mix "step": name -> conversations of a step of this source; the others have the global batch
    micro_batch   mix "micro": conversations per slice; a divisor of the global batch
    held_out      name -> samples kept for validation; `sizes` counts the others, which alone are drawn
    stream        name of the stream that this mixture is, in mix "joint": each has its own random order of sources
    raises        DataError for an empty source, an invalid weight, or names that do not match
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        weights: Mapping[str, float],
        seed: int,
        global_batch: int,
        mix: Mix = "sample",
        *,
        batches: Mapping[str, int] | None = None,
        micro_batch: int | None = None,
        held_out: Mapping[str, int] | None = None,
        stream: str = "",
    ):
        _check(sources, weights, global_batch)
        self.sources = dict(sources)
        self.names: tuple[str, ...] = tuple(sorted(sources))
        self.seed, self.global_batch, self.mix, self.stream = seed, global_batch, mix, stream
        orders = {name: shuffle_of(sources[name], name, len(sources[name]), seed) for name in self.names}
        split_up = {name: without_held_out(orders[name], (held_out or {}).get(name, 0)) for name in self.names}
        self.shuffles = {name: shuffle for name, (shuffle, _) in split_up.items()}
        self.held_out = {name: held for name, (_, held) in split_up.items()}  # int64[H], ascending
        self.sizes = {name: len(sources[name]) - len(self.held_out[name]) for name in self.names}
        total = math.fsum(weights.values())
        self.shares = {name: weights[name] / total for name in self.names}  # of the units
        per_unit = {"sample": 1, "step": global_batch, "micro": micro_batch or global_batch}[mix]
        self.per_unit = {name: (batches or {}).get(name, per_unit) for name in self.names}
        self.units_per_step = 1 if mix == "step" else global_batch // per_unit
        _check_units(self)
        self._conversations = np.array([self.per_unit[name] for name in self.names])
        self._edges = np.cumsum([self.shares[name] for name in self.names]) * BLOCK
        self._block: _Block | None = None

    @property
    def streams(self) -> Mapping[str, Mixture[Source]]:
        """The mixtures that every step draws from, in the order of its micro-batches: one, except in mix "joint"."""
        return {self.stream: self}

    def draws(self, step: int) -> list[Draw]:
        """The draws of one step, the same for any number of ranks and workers."""
        first = step * self.units_per_step
        unit_source, unit_drawn = self._look_up(np.arange(first, first + self.units_per_step))
        count = self._conversations[unit_source]  # conversations of each unit
        source = np.repeat(unit_source, count)
        drawn = np.repeat(unit_drawn * count, count) + _positions_in_runs(count)
        index = np.empty_like(drawn)
        for number in np.unique(source):
            mine = source == number
            index[mine] = self.shuffles[self.names[number]].indices(drawn[mine])
        names = [self.names[number] for number in source.tolist()]
        return list(map(Draw, names, index.tolist(), drawn.tolist()))

    def index(self, source: str, drawn: int) -> int:
        """The sample that is the drawn-th draw of a source."""
        return int(self.shuffles[source].indices(np.array([drawn]))[0])

    def replacement(self, draw: Draw, attempt: int) -> int:
        """The sample that replaces an unreadable draw, of the same source; attempt 0 is the draw itself.

        Every attempt gives a different sample. raises DataError when the source has no further one.
        """
        if attempt == 0:
            return draw.index
        return self.shuffles[draw.source].replacement(draw.drawn, draw.index, attempt)

    def counts(self, step: int) -> dict[str, int]:
        """The number of draws of each source before a step."""
        number, unit = divmod(step * self.units_per_step, BLOCK)
        if unit:
            block = self._open_block(number)
            units = block.before + np.bincount(block.source[:unit], minlength=len(self.names))
        else:
            units = self._before(number)
        return dict(zip(self.names, (units * self._conversations).tolist()))

    def expected(self, steps: int) -> dict[str, float]:
        """The number of conversations of each source in so many steps, on average over seeds."""
        units = steps * self.units_per_step
        return {name: self.shares[name] * units * self.per_unit[name] for name in self.names}

    def _look_up(self, units: NDArray) -> tuple[NDArray, NDArray]:
        """The source of each unit, and how often this source was drawn before it: int64[n] -> two int64[n]."""
        source, drawn = np.empty_like(units), np.empty_like(units)
        for number in np.unique(units // BLOCK).tolist():
            here = units // BLOCK == number
            block = self._open_block(number)
            source[here], drawn[here] = block.source[units[here] % BLOCK], block.drawn[units[here] % BLOCK]
        return source, drawn

    def _open_block(self, number: int) -> _Block:
        if self._block is None or self._block.number != number:
            # "deck" names a random stream: a different name would change the order of the data
            slots = permute(np.arange(BLOCK), BLOCK, seeds.number(self.seed, self._purpose("deck"), number))
            source = np.searchsorted(self._borders(np.array([number]))[0], slots, side="right")
            before = self._before(number)
            self._block = _Block(number, before, source, before[source] + _earlier_of_same(source))
        return self._block

    def _borders(self, blocks: NDArray) -> NDArray[np.int64]:
        """The end of each source among the slots of each block: int64[n] -> int64[n, sources].

        A source has the slots q with its lower edge <= q + offset < its upper edge. The offset in [0, 1) is random
        per block, so the expected number of slots is exactly share * BLOCK.
        """
        offset = uniform(seeds.number(self.seed, self._purpose("offset")), blocks)[:, None]
        borders = np.clip(np.ceil(self._edges - offset), 0, BLOCK).astype(np.int64)
        last = max(number for number, name in enumerate(self.names) if self.shares[name] > 0)
        borders[:, last:] = BLOCK  # rounding must leave no slot without a source, nor one for a weight of 0
        return borders

    def _purpose(self, name: str) -> str:
        """The name of a random stream of this mixture."""
        return f"{name}/{self.stream}" if self.stream else name

    def _before(self, number: int) -> NDArray[np.int64]:
        """Units of each source in all blocks before this one, int64[sources]."""
        borders = self._borders(np.arange(number))
        return np.diff(borders, axis=1, prepend=0).sum(axis=0)


def split(draws: Sequence[Draw], rank: int, world: int, accumulate: int) -> list[list[Draw]]:
    """The draws of one step that a rank reads, one list per micro-batch.

    Micro-batch m of rank r is slice m * world + r of the step, so a step is the same set of conversations for any split
    over ranks and micro-batches.
    raises   ValueError when the conversations do not divide into ranks and micro-batches
    """
    size, rest = divmod(len(draws), world * accumulate)
    if rest or not size:
        raise ValueError(f"{len(draws)} conversations do not divide into {world} ranks x {accumulate} micro-batches")
    starts = [(micro * world + rank) * size for micro in range(accumulate)]
    return [list(draws[start : start + size]) for start in starts]


def _earlier_of_same(source: NDArray) -> NDArray[np.int64]:
    """For each unit, the number of earlier units of the same source: int64[n] -> int64[n]."""
    order = np.argsort(source, kind="stable")
    firsts = np.searchsorted(source[order], source[order], side="left")
    earlier = np.empty_like(source)
    earlier[order] = np.arange(source.size) - firsts
    return earlier


def _positions_in_runs(counts: NDArray) -> NDArray[np.int64]:
    """0, 1, ... within each run of the given lengths: [2, 3] -> [0, 1, 0, 1, 2]"""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _check_units(mixture: Mixture[Any]) -> None:
    if mixture.mix == "micro" and mixture.global_batch % mixture.per_unit[mixture.names[0]]:
        size = mixture.per_unit[mixture.names[0]]
        raise DataError(f"{mixture.global_batch} conversations per step do not divide into slices of {size}")
    if mixture.mix != "step" and len(set(mixture.per_unit.values())) > 1:
        raise DataError(f'a source may set its own batch in mix "step" only, this mix is "{mixture.mix}"')


def _check(sources: Mapping[str, Sized], weights: Mapping[str, float], global_batch: int) -> None:
    if set(sources) != set(weights):
        raise DataError(f"the mixture has sources {sorted(sources)} but weights for {sorted(weights)}")
    for name, source in sources.items():
        if not len(source):
            raise DataError(f"source {name!r} is empty")
        if not (math.isfinite(weights[name]) and weights[name] >= 0):
            raise DataError(f"source {name!r}: weight is {weights[name]}, expected a number from 0 upwards")
    if not sources or not any(weights.values()):
        raise DataError("the mixture has no source with a weight above 0")
    if global_batch < 1:
        raise DataError(f"global_batch is {global_batch}, expected 1 or more")
