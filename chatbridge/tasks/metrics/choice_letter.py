"""Share of the items whose generated answer chooses the correct option, read by the rules of metrics/choice.py.

An answer that chooses no option is incorrect, and so is an item without an answer. An item whose correct option is not
known is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatbridge.tasks.metrics._options import asked_options, options_of
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score
from chatbridge.tasks.metrics.choice import RULES, chosen_option


@METRICS.register("choice_letter")
class ChoiceLetter(Metric):
    """Whether the option that a generated answer names is the correct one."""

    needs = frozenset()  # the options may be in the details

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    @property
    def names(self) -> tuple[str, ...]:
        return ("choice_letter",)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        return [mean_score("choice_letter", letter_correct(items))]

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        """By which rule the option of an answer was read, and how many answers; an unreadable item has none."""
        used = [chosen_option(item.prediction, options_of(item)).rule for item in items if item.problem is None]
        return {name: used.count(name) for name in RULES}


def letter_correct(items: Sequence[Item]) -> list[float | None]:
    """1 or 0 for every item, None where the correct option is not known. raises DataError that names an item"""
    found: list[float | None] = []
    for item, (options, correct) in zip(items, asked_options(items), strict=True):
        chosen = chosen_option(item.prediction, options).letter if options else None
        found.append(None if correct is None else float(chosen == correct))
    return found
