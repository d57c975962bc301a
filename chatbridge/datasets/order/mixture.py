"""Which sample stands where: the order of the data as a pure function of (seed, step, position).

Nothing is stored, so resuming is an integer and seeking is immediate.

*Which source.* Sources are dealt as cards from decks of 65,536. What one card stands for is the mix: "sample", one
conversation; "step", a whole step, as the published runs have it, each source with a batch of its own; "micro", one
slice of `micro_batch` conversations, which is what a rank reads at once. A deck holds every source in proportion to its
weight, rounded at random so that the expectation is exact for weights of any size, and is shuffled by a keyed
permutation. So shares are right to one card per deck, and how often a source was drawn before deck d is arithmetic over
d; only the open deck is counted card by card.

*Which sample.* That is the source's arrangement (datasets/arrangement.py): most are shuffled as a whole, every sample
once per pass and every pass in another order; remote shards are shuffled inside windows.

Cost, measured on a shared core with 6 sources: 35 ms to open a deck, about 1 ms for the 512 draws of a step; a seek to
step 200,000 of 512 conversations opens one deck, so it takes 35 ms too (test_mixture.py prints both with -s).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from chatbridge.common import seeds
from chatbridge.common.errors import DataError
from chatbridge.datasets.order.permutation import permute, uniform
from chatbridge.datasets.order.shuffle import shuffle_of

BLOCK = 1 << 16
Mix = Literal["sample", "step", "micro"]


class Counted(Protocol):
    def __len__(self) -> int: ...


Source = TypeVar("Source", bound=Counted)


@dataclass(frozen=True)
class Draw:
    """One conversation of a step: sample `index` of `source`, which is the source's `drawn`-th draw since step 0."""

    source: str
    index: int
    drawn: int


@dataclass(frozen=True)
class _Block:
    """One open deck: the source and the running number of each of its cards, and the cards of all decks before it."""

    number: int
    before: NDArray[np.int64]
    source: NDArray[np.int64]
    drawn: NDArray[np.int64]


class Mixture(Generic[Source]):
    """Draws from several sources by weight.

    sources       name -> a data set, or anything else with a length; the order of the names does not matter
    weights       name -> share of the cards, any non-negative numbers
    global_batch  conversations per step over all ranks and micro-batches
    batches       mix "step": name -> conversations of a step that goes to this source; others have the global batch
    micro_batch   mix "micro": conversations per slice; a divisor of the global batch
    raises        DataError for an empty source, a bad weight, or names that do not match
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
    ):
        _check(sources, weights, global_batch)
        self.sources = dict(sources)
        self.names: tuple[str, ...] = tuple(sorted(sources))
        self.sizes = {name: len(sources[name]) for name in self.names}
        self.seed, self.global_batch, self.mix = seed, global_batch, mix
        self.shuffles = {name: shuffle_of(sources[name], name, self.sizes[name], seed) for name in self.names}
        total = math.fsum(weights.values())
        self.shares = {name: weights[name] / total for name in self.names}  # of the cards
        per_unit = {"sample": 1, "step": global_batch, "micro": micro_batch or global_batch}[mix]
        self.per_unit = {name: (batches or {}).get(name, per_unit) for name in self.names}
        self.units_per_step = 1 if mix == "step" else global_batch // per_unit
        _check_cards(self)
        self._conversations = np.array([self.per_unit[name] for name in self.names])
        self._edges = np.cumsum([self.shares[name] for name in self.names]) * BLOCK
        self._open: _Block | None = None

    def draws(self, step: int) -> list[Draw]:
        """The draws of one step, the same for any number of ranks and workers."""
        first = step * self.units_per_step
        card_source, card_drawn = self._look_up(np.arange(first, first + self.units_per_step))
        count = self._conversations[card_source]  # of each card
        source = np.repeat(card_source, count)
        drawn = np.repeat(card_drawn * count, count) + _places(count)
        index = np.empty_like(drawn)
        for number in np.unique(source):
            mine = source == number
            index[mine] = self.shuffles[self.names[number]].indices(drawn[mine])
        return [Draw(self.names[s], i, d) for s, i, d in zip(source.tolist(), index.tolist(), drawn.tolist())]

    def index(self, source: str, drawn: int) -> int:
        """The sample that a source gives for its drawn-th draw."""
        return int(self.shuffles[source].indices(np.array([drawn]))[0])

    def replacement(self, draw: Draw, attempt: int) -> int:
        """A sample of the same source for a draw that could not be read; attempt 0 is the draw itself.

        Every attempt is another sample. raises DataError when the source has no further one.
        """
        if attempt == 0:
            return draw.index
        return self.shuffles[draw.source].replacement(draw.drawn, draw.index, attempt)

    def counts(self, step: int) -> dict[str, int]:
        """How many draws each source had before a step."""
        deck, card = divmod(step * self.units_per_step, BLOCK)
        if card:
            cards = self._deck(deck).before + np.bincount(self._deck(deck).source[:card], minlength=len(self.names))
        else:
            cards = self._before(deck)
        return dict(zip(self.names, (cards * self._conversations).tolist()))

    def expected(self, steps: int) -> dict[str, float]:
        """How many conversations of each source so many steps hold, on average over seeds."""
        cards = steps * self.units_per_step
        return {name: self.shares[name] * cards * self.per_unit[name] for name in self.names}

    def _look_up(self, cards: NDArray) -> tuple[NDArray, NDArray]:
        source, drawn = np.empty_like(cards), np.empty_like(cards)
        for number in np.unique(cards // BLOCK).tolist():
            here = cards // BLOCK == number
            deck = self._deck(number)
            source[here], drawn[here] = deck.source[cards[here] % BLOCK], deck.drawn[cards[here] % BLOCK]
        return source, drawn

    def _deck(self, number: int) -> _Block:
        if self._open is None or self._open.number != number:
            slots = permute(np.arange(BLOCK), BLOCK, seeds.number(self.seed, "deck", number))
            source = np.searchsorted(self._borders(np.array([number]))[0], slots, side="right")
            before = self._before(number)
            self._open = _Block(number, before, source, before[source] + _earlier_of_same(source))
        return self._open

    def _borders(self, decks: NDArray) -> NDArray[np.int64]:
        """Where each source ends among the slots of each deck, int64[decks, sources].

        A source owns the slots q with its lower edge <= q + offset < its upper edge. The offset in [0, 1) is drawn
        per deck, which makes the expected number of slots exactly share * DECK.
        """
        offset = uniform(seeds.number(self.seed, "offset"), decks)[:, None]
        borders = np.clip(np.ceil(self._edges - offset), 0, BLOCK).astype(np.int64)
        last = max(number for number, name in enumerate(self.names) if self.shares[name] > 0)
        borders[:, last:] = BLOCK  # rounding must not leave a slot to nobody, nor to a source of weight 0
        return borders

    def _before(self, deck: int) -> NDArray[np.int64]:
        """Cards of each source in all decks before this one, int64[sources]."""
        borders = self._borders(np.arange(deck))
        return np.diff(borders, axis=1, prepend=0).sum(axis=0)


def split(draws: Sequence[Draw], rank: int, world: int, accumulate: int) -> list[list[Draw]]:
    """The draws of one step that a rank reads, one list per micro-batch.

    Micro-batch m of rank r is slice m * world + r of the step, so that a step is the same set of conversations however
    it is spread over ranks and micro-batches.
    """
    size, rest = divmod(len(draws), world * accumulate)
    if rest or not size:
        raise ValueError(f"{len(draws)} conversations do not divide into {world} ranks x {accumulate} micro-batches")
    starts = [(micro * world + rank) * size for micro in range(accumulate)]
    return [list(draws[start : start + size]) for start in starts]


def _earlier_of_same(source: NDArray) -> NDArray[np.int64]:
    """For each card, how many cards of the same source lie before it."""
    order = np.argsort(source, kind="stable")
    firsts = np.searchsorted(source[order], source[order], side="left")
    earlier = np.empty_like(source)
    earlier[order] = np.arange(source.size) - firsts
    return earlier


def _places(counts: NDArray) -> NDArray[np.int64]:
    """0, 1, ... within each run of so many: [2, 3] -> [0, 1, 0, 1, 2]"""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _check_cards(mixture: Mixture[Any]) -> None:
    if mixture.mix == "micro" and mixture.global_batch % mixture.per_unit[mixture.names[0]]:
        size = mixture.per_unit[mixture.names[0]]
        raise DataError(f"{mixture.global_batch} conversations per step do not divide into slices of {size}")
    if mixture.mix != "step" and len(set(mixture.per_unit.values())) > 1:
        raise DataError(f'sources have batches of their own in mix "step" only, this one is "{mixture.mix}"')


def _check(sources: Mapping[str, Counted], weights: Mapping[str, float], global_batch: int) -> None:
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
