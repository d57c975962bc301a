"""The options of an item and the letter of the correct one, from a line of predictions of any origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.tasks.metrics.base import Item
from chatbridge.tasks.metrics.text import normalise


def lettered(options: Any) -> dict[str, str] | None:
    """Letter -> text, of a mapping or of a list of texts (A, B, ...); None for anything else, or fewer than two."""
    if isinstance(options, Sequence) and not isinstance(options, str):
        options = dict(zip(ascii_uppercase, options, strict=False)) if len(options) <= len(ascii_uppercase) else None
    if not isinstance(options, Mapping) or len(options) < 2:
        return None
    found = {str(letter).strip().upper(): str(text) for letter, text in options.items()}
    is_usable = len(found) == len(options) and all(len(letter) == 1 and letter.isalnum() for letter in found)
    return found if is_usable else None


def options_of(item: Item) -> dict[str, str]:
    """The options that an item was asked with. raises DataError that names the item"""
    given = item.row.get("options", item.details.get("options"))
    if (found := lettered(given)) is None:
        arrived = "has no options" if given is None else f"has the options {given!r}"
        raise DataError(
            f"item {item.id!r} {arrived}: a metric of choices needs `options`, an object of letters and texts or a "
            "list of at least two texts, in its line or in its `details`"
        )
    return found


def correct_letter(item: Item, options: Mapping[str, str]) -> str | None:
    """The letter of the correct option; None where the data do not tell (a test split).

    It is `details.answer`, or else the first reference: a letter, or the text of one option.
    raises   DataError that names the item if the answer is none of the options
    """
    given = item.details.get("answer")
    answers = list(item.references) if given is None else [str(given)]
    if not answers or not (answer := answers[0].strip()):
        return None
    if answer.upper() in options:
        return answer.upper()
    texts = [letter for letter, text in options.items() if normalise(text) == normalise(answer)]
    if len(texts) != 1:
        listed = ", ".join(f"{letter}: {text}" for letter, text in options.items())
        raise DataError(f"item {item.id!r}: its answer {answer!r} is not one of its options ({listed})")
    return texts[0]


def asked_options(items: Sequence[Item]) -> list[tuple[dict[str, str], str | None]]:
    """Of every item its options and the correct letter; no options for one that was not answered.

    raises   DataError, see `options_of`
    """
    found: list[tuple[dict[str, str], str | None]] = []
    for item in items:
        if item.problem is None:
            options = options_of(item)
            found.append((options, correct_letter(item, options)))
        else:  # it counts as incorrect unless its answer is known to be missing
            answer = item.details.get("answer", "?")
            found.append(({}, str(answer) or None))
    return found
