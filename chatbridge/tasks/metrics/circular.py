"""Circular evaluation: a question is correct if it is answered correctly with every rotation of its options.

circular    share of the questions that are
unrotated   share of the questions that are answered correctly with their options in the order of the data
Both with the suffix _likelihood or _likelihood_normalised when options are chosen by likelihood. The first item of a
question has its value, the other items have none. `details.base` of an item names the question that it is a copy of,
`details.copy` the number of the copy, 0 for the question itself (MMBench, Liu et al. 2023, section 4.1).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatbridge.common.errors import DataError
from chatbridge.tasks.metrics._options import options_of
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score
from chatbridge.tasks.metrics.choice_letter import letter_correct
from chatbridge.tasks.metrics.choice_likelihood import By, likelihood_correct
from chatbridge.tasks.metrics.shared import all_correct, prompt_number

Of = Literal["choice_letter", "choice_likelihood", "choice_likelihood_normalised"]
SUFFIX = {
    "choice_letter": "",
    "choice_likelihood": "_likelihood",
    "choice_likelihood_normalised": "_likelihood_normalised",
}


@METRICS.register("circular")
class Circular(Metric):
    """Whether every rotation of a question is answered correctly, for each way to read the chosen option."""

    needs = frozenset()  # the options may be in the details
    checks_alone = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        of: tuple[Of, ...] = ("choice_letter",)  # how the chosen option is read
        by: By = "tokens"  # as of choice_likelihood
        optional: bool = False  # no scores where no item is a rotation, in place of an error

    config: Config

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{name}{SUFFIX[of]}" for of in self.config.of for name in ("circular", "unrotated"))

    def scores(self, items: Sequence[Item]) -> list[Score]:
        if self.config.optional and not any(item.details.get("copy") for item in items):
            return [mean_score(name, [None] * len(items)) for name in self.names]
        questions = _questions(items)
        found: list[Score] = []
        for of in self.config.of:
            correct = self._correct(of, items)
            all_of = all_correct(correct, questions)
            first = [value if _copy(item) == 0 else None for item, value in zip(items, correct, strict=True)]
            found += [mean_score(f"circular{SUFFIX[of]}", all_of), mean_score(f"unrotated{SUFFIX[of]}", first)]
        return found

    def check(self, item: Item) -> None:
        """raises DataError for an item of a data set without rotations, unless the metric is optional"""
        if not self.config.optional:
            _base(item)

    def _correct(self, of: Of, items: Sequence[Item]) -> list[float | None]:
        if of == "choice_letter":
            return letter_correct(items)
        return likelihood_correct(items, self.config.by if of == "choice_likelihood_normalised" else None)


def _questions(items: Sequence[Item]) -> list[Hashable]:
    """The question of every item, with its prompt. raises DataError if rotations of a question are missing"""
    labels: list[Hashable] = []
    groups: dict[Hashable, list[int]] = {}
    for number, item in enumerate(items):
        base = _base(item)
        if not isinstance(_copy(item), int) or isinstance(_copy(item), bool):
            raise DataError(f"item {item.id!r}: its `copy` is {_copy(item)!r:.80}, expected a whole number")
        labels.append((str(base), prompt_number(item.details)))
        groups.setdefault(labels[-1], []).append(number)
    for numbers in groups.values():
        copies = sorted(_copy(items[number]) for number in numbers)
        first = items[numbers[0]]
        options = options_of(first)
        if copies != list(range(len(options))):
            raise DataError(
                f"question {first.details['base']!r} has the rotations {copies} of {len(options)} options; circular "
                f"evaluation needs each of 0 to {len(options) - 1} once"
            )
    return labels


def _base(item: Item) -> Any:
    base = item.details.get("base")
    if base is None or "copy" not in item.details:
        raise DataError(
            f"item {item.id!r} has no `base` and `copy` in its details: circular evaluation needs a data set with a "
            "copy of every question per rotation of its options, as `rotate: true` makes them"
        )
    return base


def _copy(item: Item) -> Any:
    return item.details["copy"]
