"""Comparison of short texts up to case, punctuation and articles."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = re.compile(r"[^\w\s.,]|_|(?<!\d)[.,]|[.,](?!\d)")  # a point or comma inside a number stays


def normalise(text: str) -> str:
    """The text in lower case without punctuation and articles, with single spaces: "The red circle." -> "red circle".

    An answer that consists of an article or punctuation only keeps it: "A." -> "a", and "+" differs from "-". Combining
    marks are part of their letter: accents, and the vowels of many scripts.
    """
    text = unicodedata.normalize("NFC", text)
    words = _PUNCTUATION.sub(_gap, text.lower()).split() or text.split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def _gap(found: re.Match[str]) -> str:
    is_variation_selector = "\ufe00" <= found[0] <= "\ufe0f"  # of an emoji
    is_part = unicodedata.category(found[0]) in ("Mn", "Mc") and not is_variation_selector
    return found[0] if is_part else " "


def exact_match(answer: str, references: Iterable[str]) -> bool:
    """Whether the answer equals one of the references after `normalise`."""
    return normalise(answer) in {normalise(reference) for reference in references}


def named(text: str, phrases: Iterable[str]) -> list[bool]:
    """For each phrase, whether the text contains it as whole words: "red" is not in "a bored cat"."""
    padded = f" {normalise(text)} "
    return [f" {normalise(phrase)} " in padded for phrase in phrases]
