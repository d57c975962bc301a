"""Slices of similar length: the conversations of a window of steps, sorted by length, so that less is padding.

A slice is what one rank reads as one micro-batch. Slice m * world + r of a step is micro-batch m of rank r, as in
`mixture.split`, so a step has the same slices for any split over ranks and micro-batches. A window is `window` whole
steps, counted from step 0: its content and its order are functions of (seed, step) alone.

*One step* (window 1): the conversations of a step are distributed differently over its slices. The step holds the same
ones as without grouping, so its gradient is the same.

*Several steps*: conversations move between the steps of a window, each is still used once. The sorted slices go to the
steps of the window in random order, so that a step has short slices and long ones.

Slices keep the meaning of `mix`: where a slice has one source (mix "step" and "micro"), conversations change places
with those of the same source only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chatbridge.common import seeds
from chatbridge.datasets.order.mixture import Draw, Mixture
from chatbridge.datasets.order.permutation import permute

Lengths = Callable[[Sequence[Draw]], Sequence[int]]
Slices = list[list[Draw]]


class GroupedOrder:
    """Step -> its slices, sorted by length. It keeps the window that is open.

    lengths     draws -> the number of positions that each of them takes; a pure function of each draw
    num_slices  of a step: ranks x micro-batches
    window      steps whose conversations are sorted together
    """

    def __init__(self, mixture: Mixture[Any], lengths: Lengths, num_slices: int, window: int = 1):
        self.mixture, self.lengths, self.num_slices, self.window = mixture, lengths, num_slices, window
        self._first = -1  # step of the open window
        self._open: list[Slices] = []

    def __call__(self, step: int) -> Slices:
        """The slices of one step, those with long conversations first."""
        first = step - step % self.window
        if first != self._first:
            self._first, self._open = first, self._slices(first)
        return self._open[step - first]

    def _slices(self, first: int) -> list[Slices]:
        steps = [self.mixture.draws(step) for step in range(first, first + self.window)]
        found = iter(self.lengths([draw for draws in steps for draw in draws]))
        length_of = {draw: next(found) for draws in steps for draw in draws}  # a draw occurs once in a run
        order = None if self.window == 1 else seeds.number(self.mixture.seed, "grouped", first // self.window)
        return grouped(steps, length_of.__getitem__, self.num_slices, self.mixture.mix != "sample", order)


def grouped(
    steps: Sequence[Sequence[Draw]],
    length_of: Callable[[Draw], int],
    num_slices: int,
    is_of_one_source: bool,
    order: int | None = None,
) -> list[Slices]:
    """The slices of each step of a window, every slice with conversations of similar length.

    steps             the draws of each step, in the dealt order
    num_slices        of a step; a divisor of the number of its draws
    is_of_one_source  a slice has one source, so conversations of different sources do not mix
    order             key of the random order in which slices go to steps; None: the longest go to the first step
    """
    places: dict[tuple[str, int], list[int]] = {}  # source and size of a slice -> the steps of such slices, in order
    draws: dict[tuple[str, int], list[Draw]] = {}
    for number, dealt in enumerate(steps):
        size, rest = divmod(len(dealt), num_slices)
        if rest or not size:
            raise ValueError(f"{len(dealt)} conversations do not divide into {num_slices} slices")
        for start in range(0, len(dealt), size):
            pool = (dealt[start].source if is_of_one_source else "", size)
            places.setdefault(pool, []).append(number)
            draws.setdefault(pool, []).extend(dealt[start : start + size])
    found: list[Slices] = [[] for _ in steps]
    for pool, numbers in places.items():
        by_length = sorted(draws[pool], key=length_of, reverse=True)  # stable: the dealt order where lengths are equal
        count = len(numbers)
        ranking = range(count) if order is None else permute(np.arange(count), count, order).tolist()
        for number, rank in zip(numbers, ranking, strict=True):
            found[number].append(by_length[rank * pool[1] : (rank + 1) * pool[1]])
    for slices in found:
        slices.sort(key=lambda one: length_of(one[0]), reverse=True)  # ranks of one micro-step have similar lengths
    return found
