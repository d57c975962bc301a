"""From the summed losses of the micro-batches of a step, on all ranks, to one loss.

token        the mean per supervised token over all micro-batches of all ranks: a long answer counts more than a short
             one, and neither ranks nor micro-batches change the result
micro_batch  the mean of the means of the micro-batches, as in the published training loops of Multimodal-GPT and
             LAVIS: every micro-batch counts alike, however many supervised tokens it has

With streams (mix "joint") each stream has a mean of its own, and the loss is their sum, each times its weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from chatbridge.common.dist import Dist
from chatbridge.common.types import Batch

LossMean = Literal["token", "micro_batch"]
ONE_STREAM: Mapping[str, float] = {"": 1.0}


@dataclass(frozen=True)
class StepLoss:
    """The loss of one step: per stream, the sum of its micro-batches divided by a number that all ranks share.

    supervised  supervised tokens of all ranks
    streams     stream of each micro-batch of this rank
    counts      what the summed loss of each micro-batch is divided by before it is added: 1, or its tokens
    divisors    stream -> what the sum over its micro-batches of all ranks is divided by
    weight      of this step in a mean over steps
    """

    supervised: int
    streams: Sequence[str]
    counts: Sequence[int]
    divisors: Mapping[str, float]
    weight: int
    dist: Dist

    def part(self, micro: int, total: Tensor) -> Tensor:
        """What a micro-batch adds to the loss, float[]. total: its summed loss, float[]"""
        return total / (self.divisors[self.streams[micro]] * self.counts[micro])

    def value(self, totals: Sequence[float]) -> float:
        """The loss over all ranks; nan without a supervised token. totals: of the micro-batches of this rank"""
        loss = 0.0
        for name, divisor in self.divisors.items():
            own = [_ratio(total, count) for stream, total, count in zip(self.streams, totals, self.counts, strict=True)
                   if stream == name]  # fmt: skip
            loss += _ratio(self.dist.sum(float(sum(own))), divisor)
        return loss


@dataclass(frozen=True)
class LossOfSteps:
    """Steps -> their loss.

    mean     run.loss_mean
    weights  stream -> factor on its mean, in the same order on every rank
    """

    dist: Dist
    mean: LossMean = "token"
    weights: Mapping[str, float] = field(default_factory=lambda: ONE_STREAM)

    def of(self, batches: Sequence[Batch]) -> StepLoss:
        """The loss of a step with these micro-batches on this rank. Every rank calls it."""
        is_token = self.mean == "token"
        streams = [batch.stream for batch in batches]
        tokens = {name: self.dist.sum(sum(batch.num_supervised for batch in batches if batch.stream == name))
                  for name in self.weights}  # fmt: skip
        supervised = sum(tokens.values())
        sizes = tokens if is_token else {name: streams.count(name) * self.dist.world_size for name in self.weights}
        divisors = {name: sizes[name] / weight for name, weight in self.weights.items()}
        counts = [1 if is_token else batch.num_supervised for batch in batches]
        is_plain = is_token and len(self.weights) == 1
        return StepLoss(supervised, streams, counts, divisors, supervised if is_plain else 1, self.dist)


def _ratio(value: float, divisor: float) -> float:
    return value / divisor if divisor else math.nan
