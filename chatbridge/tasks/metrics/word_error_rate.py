"""Word and character error rate of transcriptions."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError
from chatbridge.common.extras import need
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score


@METRICS.register("word_error_rate")
class WordErrorRate(Metric):
    """Substitutions, deletions and insertions per word (or character) of the references, over all items.

    The value is the errors of all items by the words of all items, not a mean of rates. Of several references the
    one with the lowest rate counts. An empty answer, and an unreadable item, has all words deleted.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        normalise: bool = True  # whether case and punctuation are removed first; articles stay

    config: Config
    lower_is_better = frozenset({"word_error_rate", "character_error_rate"})

    @property
    def packages(self) -> tuple[str, ...]:
        return ("jiwer",)

    @property
    def names(self) -> tuple[str, ...]:
        return ("word_error_rate", "character_error_rate")

    def scores(self, items: Sequence[Item]) -> list[Score]:
        """Both rates. raises DataError for an item without words in its references, ImportError without jiwer"""
        jiwer = need("jiwer", "the metric word_error_rate")
        pairs = [self._texts(item) for item in items]
        return [
            _score("word_error_rate", pairs, jiwer.process_words),
            _score("character_error_rate", pairs, jiwer.process_characters),
        ]

    def _texts(self, item: Item) -> tuple[str, list[str]]:
        form: Callable[[str], str] = spoken if self.config.normalise else (lambda text: " ".join(text.split()))
        references = [text for one in item.references if (text := form(one))]
        if item.problem and not references:  # nothing is known of it: as if one word were missing
            return "", ["unknown"]
        if not references:
            raise DataError(
                f"item {item.id!r}: no reference has words, so it has no word error rate; give its transcript"
            )
        return "" if item.problem else form(item.prediction), references


def spoken(text: str) -> str:
    """Lower case without punctuation: "It's, the..." -> "it's the". Articles and apostrophes inside words stay."""
    text = unicodedata.normalize("NFC", text).lower().replace("\u2019", "'")
    words = "".join(one if one == "'" or one.isalnum() or unicodedata.category(one)[0] == "M" else " " for one in text)
    return " ".join(filter(None, (word.strip("'") for word in words.split())))


def _score(name: str, pairs: Sequence[tuple[str, list[str]]], align: Callable[..., Any]) -> Score:
    counts = np.array([_fewest(answer, references, align) for answer, references in pairs], dtype=np.float64)
    counts = counts.reshape(-1, 2)
    return Score(name, counts, _rate(counts), _rate)


def _fewest(answer: str, references: Sequence[str], align: Callable[..., Any]) -> tuple[int, int]:
    """Errors, and length of the reference, of the reference with the lowest rate; of equal ones the first."""
    found = []
    for reference in references:
        one = align(reference, answer)
        errors = one.substitutions + one.deletions + one.insertions
        found.append((errors, one.hits + one.substitutions + one.deletions))
    return min(found, key=lambda pair: pair[0] / pair[1])


def _rate(sums: Any) -> Any:
    with np.errstate(invalid="ignore"):
        return sums[..., 0] / sums[..., 1]
