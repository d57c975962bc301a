"""Share of the items whose most likely option is the correct one; the model generates nothing.

choice_likelihood             by the log-probability of the whole option, which favors short options
choice_likelihood_normalised  by the log-probability per token of the option, or per character of its text
Of options that are equally likely the first one counts. The lines have `option_logprobs` (letter -> sum of the natural
log-probabilities) and `option_tokens` (letter -> number of tokens), which the task kind `choice` writes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatbridge.common.errors import DataError
from chatbridge.tasks.metrics._options import asked_options
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score

LOGPROBS, TOKENS = "option_logprobs", "option_tokens"
By = Literal["tokens", "characters"]


@METRICS.register("choice_likelihood")
class ChoiceLikelihood(Metric):
    """Whether the most likely option is the correct one, by the sum of log-probabilities and by their mean."""

    needs = frozenset({LOGPROBS})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        by: By = "tokens"  # what the normalised score divides by: tokens, or characters of the option's text

    config: Config

    @property
    def names(self) -> tuple[str, ...]:
        return ("choice_likelihood", "choice_likelihood_normalised")

    def scores(self, items: Sequence[Item]) -> list[Score]:
        plain, normalised = likelihood_correct(items), likelihood_correct(items, self.config.by)
        return [mean_score(name, found) for name, found in zip(self.names, (plain, normalised), strict=True)]


def likelihood_correct(items: Sequence[Item], by: By | None = None) -> list[float | None]:
    """1 or 0 for every item, None where the correct option is not known.

    by       what log-probabilities are divided by; None: nothing
    raises   DataError that names an item without the log-probability of each of its options
    """
    found: list[float | None] = []
    for item, (options, correct) in zip(items, asked_options(items), strict=True):
        chosen = most_likely(_values(item, options, by)) if options else None
        found.append(None if correct is None else float(chosen == correct))
    return found


def most_likely(values: Mapping[str, float]) -> str:
    """The letter of the highest value, of equal ones the first."""
    return max(values, key=lambda letter: values[letter])


def _values(item: Item, options: Mapping[str, str], by: By | None) -> dict[str, float]:
    logprobs = _numbers(item, LOGPROBS, options)
    if by is None:
        return logprobs
    lengths = _numbers(item, TOKENS, options) if by == "tokens" else {key: len(one) for key, one in options.items()}
    return {letter: value / max(lengths[letter], 1) for letter, value in logprobs.items()}


def _numbers(item: Item, key: str, options: Mapping[str, str]) -> dict[str, float]:
    given: Any = item.row.get(key)
    if not isinstance(given, Mapping) or not all(_is_usable(given.get(letter)) for letter in options):
        arrived = (
            f"has no {key}" if given is None else f"has {key} {given!r:.200}, not a number for each of {list(options)}"
        )
        raise DataError(
            f"item {item.id!r} {arrived}: ask the options with a task of the kind choice and `answer: likelihood` or "
            "`both`, or score the generated letter with the metric choice_letter"
        )
    return {letter: float(given[letter]) for letter in options}


def _is_usable(value: Any) -> bool:
    """Whether this is a number that can be compared: an option may be impossible (-inf), but not NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf <= value <= sys.float_info.max
