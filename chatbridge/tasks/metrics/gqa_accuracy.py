"""Accuracy of GQA: the answer equals the one correct answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score
from chatbridge.tasks.metrics.text import normalise


@METRICS.register("gqa_accuracy")
class GQAAccuracy(Metric):
    """Whether an answer equals a reference, as GQA's script compares them: letter by letter.

    The script expects answers from GQA's vocabulary, in lower case without a full stop. Generated text is brought to
    that form first. `articles: true` also removes articles and other punctuation, as LAVIS does.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        articles: bool = False  # whether articles and all punctuation are removed before the comparison, as in LAVIS

    config: Config

    @property
    def names(self) -> tuple[str, ...]:
        return ("gqa_accuracy",)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        """The fraction of correct answers."""
        form = normalise if self.config.articles else plain_answer
        values = [
            float(not item.problem and form(item.prediction) in {form(one) for one in item.references})
            for item in items
        ]
        return [mean_score("gqa_accuracy", values)]


def plain_answer(text: str) -> str:
    """Lower case, single blanks, without full stops at the end: "Left.\\n" -> "left"."""
    return " ".join(text.lower().split()).rstrip(". ")
