"""Whether an answer equals a reference, up to case, punctuation and articles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score
from chatbridge.tasks.metrics.text import exact_match


@METRICS.register("exact_match")
class ExactMatch(Metric):
    """Share of the answers that equal one of their references after `text.normalise`."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    @property
    def names(self) -> tuple[str, ...]:
        return ("exact_match",)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        return [mean_score("exact_match", [float(_is_right(item)) for item in items])]


def _is_right(item: Item) -> bool:
    return item.problem is None and exact_match(item.prediction, item.references)
