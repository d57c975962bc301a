"""Average normalised Levenshtein similarity, for answers that are read from an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from chatbridge.common.extras import need
from chatbridge.config.schema import Range
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score


@METRICS.register("anls")
class ANLS(Metric):
    """1 - distance / length of the longer text, of the closest reference; below the threshold 0. Case and the number of
    blanks make no difference.

    Source: Biten et al. 2019, "Scene Text Visual Question Answering". As in the script of the Robust Reading
    Competition a similarity of exactly the threshold counts, which the paper's formula leaves out.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        threshold: Annotated[float, Range(low=0, high=1)] = 0.5  # a lower similarity counts as 0

    config: Config

    @property
    def packages(self) -> tuple[str, ...]:
        return ("rapidfuzz",)

    @property
    def names(self) -> tuple[str, ...]:
        return ("anls",)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        """The mean similarity. raises ImportError that names the extra when rapidfuzz is not installed"""
        need("rapidfuzz", "the metric anls")
        return [mean_score("anls", [0.0 if item.problem else self._similarity(item) for item in items])]

    def _similarity(self, item: Item) -> float:
        from rapidfuzz.distance import Levenshtein

        answer = _words(item.prediction)
        found = max((Levenshtein.normalized_similarity(answer, _words(one)) for one in item.references), default=0.0)
        return found if found >= self.config.threshold else 0.0


def _words(text: str) -> str:
    return " ".join(text.lower().split())
