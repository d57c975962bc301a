"""Questions with options, whose answers are read by rules (choice.py), and circular evaluation as MMBench does it.

accuracy            share of the questions with the correct option
circular_accuracy   share of the questions that are answered correctly with every rotation of their options; only for
                    data with such copies, and the headline score then
rotated_accuracy    share of the copies with the correct option
A question that cannot be read, or whose answer chooses no option, is incorrect. Questions without an answer have no
score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatbridge.common.errors import DataError
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, detail, mean_score
from chatbridge.tasks.metrics.choice import RULES, Choice, chosen_option
from chatbridge.tasks.metrics.shared import all_correct, prompt_number


@METRICS.register("mmbench")
class MMBenchScores(Metric):
    """Takes items with the details `options` (letter -> text), `answer` (letter), `base` and `copy` (0: no copy)."""

    needs = frozenset()

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    @property
    def names(self) -> tuple[str, ...]:
        return ("circular_accuracy", "accuracy", "rotated_accuracy")

    def scores(self, items: Sequence[Item]) -> list[Score]:
        right = [_is_right(item) for item in items]
        is_copy = [bool(detail(item, "copy", int)) for item in items]
        questions = [(str(detail(item, "base")), prompt_number(item.details)) for item in items]
        circular = all_correct(right, questions) if any(is_copy) else [None] * len(items)
        return [
            mean_score("circular_accuracy", circular),
            mean_score("accuracy", [None if copy else one for one, copy in zip(right, is_copy, strict=True)]),
            mean_score("rotated_accuracy", [one if copy else None for one, copy in zip(right, is_copy, strict=True)]),
        ]

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        """By which rule the option of an answer was read, and how many answers; an unreadable question has none."""
        used = [_chosen(item).rule for item in items if item.problem is None]
        return {name: used.count(name) for name in RULES}


def _is_right(item: Item) -> float | None:
    answer = detail(item, "answer", str)
    if not answer:
        return None
    return float(item.problem is None and _chosen(item).letter == answer)


def _chosen(item: Item) -> Choice:
    options = detail(item, "options")
    if not isinstance(options, Mapping) or not all(isinstance(text, str) for pair in options.items() for text in pair):
        raise DataError(f"item {item.id!r}: its detail 'options' is {options!r:.80}, expected letters with their texts")
    return chosen_option(item.prediction, options)
