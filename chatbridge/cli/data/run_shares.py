"""The composition of a run: draws, passes and tokens of each source, and the share of padding in a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatbridge.cli.data.measure import Ints, Lengths, spread
from chatbridge.datasets.order.mixture import Draw, Mixture
from chatbridge.runners.config import RunConfig

STEPS = 64  # steps of the run whose padding is measured, spread evenly


@dataclass(frozen=True)
class SourceShare:
    """One source in a run; shares refer to all sources together.

    share          share of the mixture: of its conversations, steps or micro-batches
    conversations  share of the conversations
    supervised     share of the supervised tokens
    loss           share of the tokens in the mean that is the loss: that of the supervised tokens; in mix "joint" its
                   share of the tokens of its stream, times the weight of the stream among all weights
    """

    share: float
    draws: int
    conversations: float
    supervised: float
    tokens: float
    passes: float
    loss: float


@dataclass(frozen=True)
class StepAverages:
    """Averages per step: conversations, tokens without and with padding, supervised tokens."""

    conversations: float
    tokens: float
    padded: float
    supervised: float

    @property
    def padding(self) -> float:
        return 1 - self.tokens / self.padded if self.padded else 0.0


def source_shares(
    mixture: Mixture[Any], lengths: Mapping[str, Lengths], steps: int, streams: Mapping[str, float] | None = None
) -> dict[str, SourceShare]:
    """Return source name -> its share, counted over the draws of the run; tokens use the mean measured length.

    streams   mix "joint": stream -> factor on its mean loss
    """
    draws = mixture.counts(steps)
    supervised = {name: draws[name] * _mean(lengths[name].supervised) for name in mixture.names}
    tokens = {name: draws[name] * _mean(lengths[name].total) for name in mixture.names}
    loss = _loss_shares(mixture, supervised, streams or {})
    all_draws, all_supervised = sum(draws.values()) or 1, sum(supervised.values()) or 1.0
    return {
        name: SourceShare(
            share=mixture.shares[name],
            draws=draws[name],
            conversations=draws[name] / all_draws,
            supervised=supervised[name] / all_supervised,
            tokens=tokens[name],
            passes=draws[name] / max(1, mixture.sizes[name]),
            loss=loss[name],
        )
        for name in mixture.names
    }


def _loss_shares(
    mixture: Mixture[Any], supervised: Mapping[str, float], streams: Mapping[str, float]
) -> dict[str, float]:
    """Source -> its share of the loss. supervised: source -> its supervised tokens"""
    whole = sum(streams.get(name, 1.0) for name in mixture.streams)
    found: dict[str, float] = {}
    for stream, part in mixture.streams.items():
        tokens = sum(supervised[name] for name in part.names) or 1.0
        weight = streams.get(stream, 1.0) / whole
        found |= {name: weight * supervised[name] / tokens for name in part.names}
    return found


def step_averages(mixture: Mixture[Any], lengths: Mapping[str, Lengths], run: RunConfig, ranks: int) -> StepAverages:
    """Return averages over STEPS steps of the run; a draw has the length of a measured sequence of its source."""
    totals = np.zeros(4)
    steps = spread(run.max_steps, STEPS)
    for step in steps:
        for part in mixture.streams.values():
            draws = part.draws(step)
            size = max(1, len(draws) // (run.accumulate * ranks))  # of a micro-batch on one rank
            for start in range(0, len(draws), size):
                drawn = _lengths_of(draws[start : start + size], lengths)
                if len(drawn):
                    totals += (len(drawn), drawn[:, 0].sum(), drawn[:, 0].max() * len(drawn), drawn[:, 1].sum())
    return StepAverages(*(totals / max(len(steps), 1)).tolist())


def _lengths_of(draws: list[Draw], lengths: Mapping[str, Lengths]) -> Ints:
    """int64[n, 2]: tokens and supervised tokens of each draw; sources without a measured sequence are left out."""
    found = [(lengths[draw.source], draw.index) for draw in draws if len(lengths[draw.source])]
    pairs = [(one.total[index % len(one)], one.supervised[index % len(one)]) for one, index in found]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _mean(values: Ints) -> float:
    return float(values.mean()) if len(values) else 0.0
