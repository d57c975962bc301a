"""ROUGE-L of captions (Lin, 2004), as pycocoevalcap computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatbridge.tasks.metrics._captions import captions_of
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score


@METRICS.register("rouge_l")
class RougeL(Metric):
    """Mean over the items, 0 to 1: F of the longest common subsequence of words.

    Precision is that of the reference with the highest precision, recall that of the one with the highest recall.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        beta: float = 1.2  # weight of recall against precision

        def problems(self) -> list[str]:
            return [] if self.beta > 0 else [f"beta is {self.beta}; accepted: a number above 0"]

    config: Config

    @property
    def names(self) -> tuple[str, ...]:
        return ("rouge_l",)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        captions = captions_of(items)
        pairs = zip(captions.predictions, captions.references, strict=True)
        return [mean_score("rouge_l", [rouge_l(prediction, found, self.config.beta) for prediction, found in pairs])]


def rouge_l(prediction: str, references: Sequence[str], beta: float) -> float:
    """F of the longest common subsequence with tokenized references; 0 for an empty prediction."""
    if not prediction:
        return 0.0  # the official code finds it equal to a reference without words
    words = prediction.split(" ")
    there = [reference.split(" ") for reference in references]
    common = [longest_common_subsequence(words, other) for other in there]
    precision = max(common) / len(words)
    recall = max(found / len(other) for found, other in zip(common, there, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def longest_common_subsequence(words: Sequence[str], others: Sequence[str]) -> int:
    """Its length. The columns of the usual table are bits of one number (Hyyrö, 2004): a row costs one addition."""
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(words)) - 1
    row = full
    for other in others:
        match = row & places.get(other, 0)
        row = (row + match | row - match) & full
    return len(words) - row.bit_count()
