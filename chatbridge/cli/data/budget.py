"""What a run will see: draws, passes and tokens of each source, and how much of a batch is padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatbridge.cli.data.measure import Ints, Lengths, spread
from chatbridge.datasets.order.mixture import Draw, Mixture
from chatbridge.runners.config import RunConfig

STEPS = 64  # of the run that are looked at for padding, spread over it evenly


@dataclass(frozen=True)
class Part:
    """One source's part in a run; shares are of all sources together.

    cards          share of what the mix deals: conversations, steps or micro-batches
    learned        share of the learned tokens, which is its share of the loss
    """

    cards: float
    draws: int
    conversations: float
    learned: float
    tokens: float
    passes: float


@dataclass(frozen=True)
class Batches:
    """What steps look like on average: conversations, places without and with padding, learned tokens."""

    conversations: float
    places: float
    padded: float
    learned: float

    @property
    def padding(self) -> float:
        return 1 - self.places / self.padded if self.padded else 0.0


def parts(mixture: Mixture[Any], lengths: Mapping[str, Lengths], steps: int) -> dict[str, Part]:
    """name -> its part, counted over the very draws of the run; tokens are means of the measured rows."""
    draws = mixture.counts(steps)
    learned = {name: draws[name] * _mean(lengths[name].learned) for name in mixture.names}
    tokens = {name: draws[name] * _mean(lengths[name].row) for name in mixture.names}
    all_draws, all_learned = sum(draws.values()) or 1, sum(learned.values()) or 1.0
    return {
        name: Part(
            cards=mixture.shares[name],
            draws=draws[name],
            conversations=draws[name] / all_draws,
            learned=learned[name] / all_learned,
            tokens=tokens[name],
            passes=draws[name] / mixture.sizes[name],
        )
        for name in mixture.names
    }


def batches(mixture: Mixture[Any], lengths: Mapping[str, Lengths], run: RunConfig, ranks: int) -> Batches:
    """From steps spread over the run; a draw has the length of one of the measured rows of its source."""
    totals = np.zeros(4)
    steps = spread(run.max_steps, STEPS)
    for step in steps:
        draws = mixture.draws(step)
        size = max(1, len(draws) // (run.accumulate * ranks))  # of a micro-batch on one rank
        for start in range(0, len(draws), size):
            rows = _drawn(draws[start : start + size], lengths)
            if len(rows):
                totals += (len(rows), rows[:, 0].sum(), rows[:, 0].max() * len(rows), rows[:, 1].sum())
    return Batches(*(totals / max(len(steps), 1)).tolist())


def _drawn(draws: list[Draw], lengths: Mapping[str, Lengths]) -> Ints:
    """int64[n, 2]: places and learned tokens of each; sources without a measured row are left out."""
    found = [(lengths[draw.source], draw.index) for draw in draws if len(lengths[draw.source])]
    rows = [(one.row[index % len(one)], one.learned[index % len(one)]) for one, index in found]
    return np.array(rows, dtype=np.int64).reshape(-1, 2)


def _mean(values: Ints) -> float:
    return float(values.mean()) if len(values) else 0.0
