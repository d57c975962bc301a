"""Comparison of short texts."""

from __future__ import annotations

import pytest

from chatbridge.tasks.metrics.text import exact_match, named, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The red circle.", "red circle"),
        ("  It's  A\nDOG! ", "it s dog"),
        ("1,000 and 0.5, yes", "1,000 and 0.5 yes"),
        ("A.", "a"),
        ("the", "the"),
        (" + ", "+"),
        ("", ""),
        ("Cafe\u0301", "caf\u00e9"),
        ("\u0926\u093f\u0928!", "\u0926\u093f\u0928"),  # day; with another vowel, poor
        ("red \u2764\ufe0f", "red"),
    ],
)
def test_normalise(text, expected):
    """fails when case, punctuation, articles or whitespace make a difference, an answer of one letter becomes empty, or
    letters lose their combining marks"""
    assert normalise(text) == expected


def test_exact_match_uses_all_references_and_refuses_an_empty_answer():
    """fails when only the first reference counts, or an empty answer is correct"""
    assert exact_match("Red", ["blue", "the red"])
    assert not exact_match("", ["a"]) and not exact_match("", ["?"])
    assert not exact_match("+", ["-"])
    assert not exact_match("redder", ["red"])


def test_named_matches_whole_words():
    """fails when parts of words, or words in another order, match"""
    assert named("A bored cat, top left.", ["red", "cat", "top left", "left top"]) == [False, True, True, False]
