"""Loss of the known answers: minus the log-probability of their tokens, in nats per token.

The value is that of all tokens together, as the loss of a training is, not a mean over answers. An unreadable question
has no loss: there is no worst value that could stand for it. The lines have `answer_logprob` and `answer_tokens`, which
the task kind `answer_loss` writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, ratio

LOGPROB, TOKENS = "answer_logprob", "answer_tokens"


@METRICS.register("answer_loss")
class AnswerLossMetric(Metric):
    """`answer_loss`, in nats per token of the known answers."""

    needs = frozenset({LOGPROB, TOKENS})
    lower_is_better = frozenset({"answer_loss"})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    config: Config

    @property
    def names(self) -> tuple[str, ...]:
        return ("answer_loss",)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        sums = np.array([_sums(item) for item in items], dtype=np.float64).reshape(-1, 2)
        return [Score("answer_loss", sums, ratio(sums), unit="number", compares_items=True)]


def _sums(item: Item) -> tuple[float, float]:
    """(minus the log-probability, tokens) of an item; zeros for one that was not measured. raises DataError"""
    if item.problem is not None:
        return 0.0, 0.0
    logprob: Any = item.row.get(LOGPROB)
    tokens: Any = item.row.get(TOKENS)
    is_number = isinstance(logprob, int | float) and not isinstance(logprob, bool) and math.isfinite(logprob)
    is_count = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0
    if not is_number or not is_count:
        raise DataError(
            f"item {item.id!r} has {LOGPROB} {logprob!r:.80} and {TOKENS} {tokens!r:.80}, expected a finite number and "
            "a count of at least 1, which a task of the kind answer_loss writes"
        )
    return -float(logprob), float(tokens)
