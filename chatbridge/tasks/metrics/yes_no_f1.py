"""Accuracy, precision, recall, F1 and ratio of yes, for questions about what is in an image (POPE) or to be heard."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from chatbridge.common.errors import DataError
from chatbridge.tasks.metrics.base import METRICS, Array, Item, Metric, Score

NAMES = ("accuracy", "precision", "recall", "f1", "yes_ratio", "unanswered")
COLUMNS = ("yes_yes", "yes_no", "no_yes", "no_no", "unanswered", "count")  # (given)_(correct), each 0 or 1 per item
NEGATIONS = frozenset({"No", "not", "no"})  # these spellings alone, as in the script of POPE
YES, NO = re.compile(r"\byes\b", re.IGNORECASE), re.compile(r"\bno\b|\bnot\b|n['’]t\b", re.IGNORECASE)


@METRICS.register("yes_no_f1")
class YesNoF1(Metric):
    """Scores with "yes" as the positive answer.

    The rule `pope` is that of POPE's script: a "no" or "not" in the first sentence means no, and everything else yes,
    also an empty answer. The rule `strict` counts an answer with neither word, or with both, as incorrect and neither.
    In both, `unanswered` is the fraction of answers without a yes or no, and an unreadable question is incorrect.
    Source: evaluate.py of RUCAIBox/POPE. Where it divides by zero (no answer "yes"), precision, recall and F1 are 0.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        rule: Literal["pope", "strict"] = "pope"  # whether an answer without yes and no counts as yes, or as incorrect

    config: Config

    lower_is_better = frozenset({"unanswered"})

    @property
    def names(self) -> tuple[str, ...]:
        return NAMES

    def scores(self, items: Sequence[Item]) -> list[Score]:
        """The scores of NAMES. raises DataError for a reference that is neither yes nor no"""
        table = np.array([self._row(item) for item in items], dtype=np.float64).reshape(-1, len(COLUMNS))
        return [
            Score(name, table, alone(table), combine)
            for name, combine, alone in zip(NAMES, COMBINE, ALONE, strict=True)
        ]

    def _row(self, item: Item) -> list[bool]:
        if item.problem and not item.references:  # nothing is known of the question: incorrect in the accuracy alone
            return [False, False, False, False, True, True]
        is_yes = correct_answer(item) == "yes"
        given = "wrong" if item.problem else self._given(item.prediction)
        if given == "wrong":
            says_yes, says_no = False, is_yes  # a yes that is missed; of a no, incorrect in the accuracy alone
        else:
            says_yes, says_no = given == "yes", given == "no"
        unanswered = bool(item.problem) or not (YES.search(item.prediction) or NO.search(item.prediction))
        return [
            says_yes and is_yes,
            says_yes and not is_yes,
            says_no and is_yes,
            says_no and not is_yes,
            unanswered,
            True,
        ]

    def _given(self, answer: str) -> str:
        return pope_answer(answer) if self.config.rule == "pope" else strict_answer(answer)


def pope_answer(answer: str) -> str:
    """ "no" if a word of the first sentence is No, no or not; else "yes"."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if NEGATIONS.intersection(words) else "yes"


def strict_answer(answer: str) -> str:
    """ "yes", "no", or "wrong" where the answer has neither or both; a yes or no at its beginning decides."""
    first = re.match(r"\W*(yes|no)\b", answer, re.IGNORECASE)
    if first:
        return first[1].lower()
    has_yes, has_no = bool(YES.search(answer)), bool(NO.search(answer))
    return "wrong" if has_yes == has_no else "yes" if has_yes else "no"


def correct_answer(item: Item) -> str:
    """ "yes" or "no". raises DataError for other references"""
    found = {one.strip().rstrip(".").lower() for one in item.references}
    if len(found) != 1 or not found <= {"yes", "no"}:
        raise DataError(
            f"item {item.id!r}: references are {list(item.references)[:3]}, expected yes or no; yes_no_f1 is for "
            "questions with these answers, use exact_match or vqa_accuracy for others"
        )
    return found.pop()


def _quotient(part: Array, whole: Array) -> Array:
    """part / whole; 0 where whole is 0"""
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole != 0)


def _accuracy(sums: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return (sums[..., 0] + sums[..., 3]) / sums[..., 5]


def _precision(sums: Array) -> Array:
    return _quotient(sums[..., 0], sums[..., 0] + sums[..., 1])


def _recall(sums: Array) -> Array:
    return _quotient(sums[..., 0], sums[..., 0] + sums[..., 2])


def _f1(sums: Array) -> Array:
    return _quotient(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2])


def _yes_ratio(sums: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return (sums[..., 0] + sums[..., 1]) / sums[..., 5]


def _unanswered(sums: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return sums[..., 4] / sums[..., 5]


def _where(is_counted: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Per item, 1 for a correct yes, else 0; NaN where the score does not count the item."""
    return lambda table: np.where(is_counted(table) > 0, table[..., 0], np.nan)


COMBINE = (_accuracy, _precision, _recall, _f1, _yes_ratio, _unanswered)
ALONE = (
    _accuracy,
    _where(lambda table: table[..., 0] + table[..., 1]),
    _where(lambda table: table[..., 0] + table[..., 2]),
    _where(lambda table: table[..., 0] + table[..., 1] + table[..., 2]),
    _yes_ratio,
    _unanswered,
)
