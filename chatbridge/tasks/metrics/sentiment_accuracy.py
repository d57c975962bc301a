"""Accuracy of negative, neutral and positive (CMU-MOSEI)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from chatbridge.common.errors import DataError
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score

SIGNS = {"negative": -1, "neutral": 0, "positive": 1}
WORD = re.compile(r"\b(negative|neutral|positive)\b", re.IGNORECASE)
NEGATED = re.compile(r"(?:\b(?:not|neither|nor)|n['’]t)\s+(?:\w+\s+)?(?:negative|neutral|positive)\b", re.IGNORECASE)
NAMES = ("sentiment_accuracy", "sentiment_accuracy_2", "sentiment_unanswered")


@METRICS.register("sentiment_accuracy")
class SentimentAccuracy(Metric):
    """Whether an answer has the sign of the reference, of three (headline), and of two where it is not neutral.

    A reference is a word or a number of MOSEI's scale from -3 to 3. An answer that has neither one word of the three
    nor a number, or denies the word ("not positive"), is incorrect and counted in `sentiment_unanswered`.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    config: Config

    lower_is_better = frozenset(NAMES[2:])

    @property
    def names(self) -> tuple[str, ...]:
        return NAMES

    def scores(self, items: Sequence[Item]) -> list[Score]:
        """The scores of NAMES. raises DataError for a reference that is no sentiment"""
        correct = [None if item.problem and not item.references else correct_sign(item) for item in items]
        given = [None if item.problem else sign(item.prediction) for item in items]
        hits = [float(one is not None and one == other) for one, other in zip(given, correct, strict=True)]
        of_two = [None if expected == 0 else hit for hit, expected in zip(hits, correct, strict=True)]
        return [
            mean_score(NAMES[0], hits),
            mean_score(NAMES[1], of_two),
            mean_score(NAMES[2], [float(one is None) for one in given]),
        ]


def sign(text: str) -> int | None:
    """-1, 0 or 1: of the only such word in the text, or of the number that it is; None if there is neither."""
    number = _number(text)
    if number is not None:
        return (number > 0) - (number < 0)
    found = {one.lower() for one in WORD.findall(text)}
    return SIGNS[found.pop()] if len(found) == 1 and not NEGATED.search(text) else None


def correct_sign(item: Item) -> int:
    """raises DataError for references that have no sign, or several"""
    found = {sign(one) for one in item.references}
    if len(found) != 1 or None in found:
        raise DataError(
            f"item {item.id!r}: references are {list(item.references)[:3]}, expected negative, neutral, positive or a "
            "number from -3 to 3; sentiment_accuracy is for these, use exact_match for other classes"
        )
    return next(one for one in found if one is not None)


def _number(text: str) -> float | None:
    try:
        number = float(text.strip().rstrip("."))
    except ValueError:
        return None
    return number if -3 <= number <= 3 else None
