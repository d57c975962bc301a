"""Comparing short texts the way people mean them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = re.compile(r"[^\w\s.,]|_|(?<!\d)[.,]|[.,](?!\d)")  # a point or comma inside a number stays


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks: "The red circle." -> "red circle", but "A." -> "a".

    Marks that are all of an answer stay: "+" is not "-". Marks that combine with a letter are part of it: accents, and
    the vowels of many scripts.
    """
    text = unicodedata.normalize("NFC", text)
    words = _PUNCTUATION.sub(_gap, text.lower()).split() or text.split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def _gap(found: re.Match[str]) -> str:
    is_part = unicodedata.category(found[0]) in ("Mn", "Mc") and not "\ufe00" <= found[0] <= "\ufe0f"  # looks of emoji
    return found[0] if is_part else " "


def exact_match(answer: str, references: Iterable[str]) -> bool:
    """True when the answer says the same as one of the references."""
    return normalise(answer) in {normalise(reference) for reference in references}


def named(text: str, phrases: Iterable[str]) -> list[bool]:
    """For each phrase, whether the text has it as whole words: "red" is not in "a bored cat"."""
    padded = f" {normalise(text)} "
    return [f" {normalise(phrase)} " in padded for phrase in phrases]
