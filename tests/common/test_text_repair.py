"""Text with halves of UTF-16 pairs in it."""

from __future__ import annotations

import json

import pytest

from chatbridge.common.text_repair import is_valid, repaired, repaired_value


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("nice square \ud83d", "nice square \ufffd"),
        ("\ude00 begins", "\ufffd begins"),
        ("a \ud83d b", "a \ufffd b"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\ud83d\ud83d\ude00\ude00", "\ufffd\U0001f600\ufffd"),
        ("\ufeffkept mark \ud83d", "\ufeffkept mark \ufffd"),
        ("größe \U0001f600 \x00", "größe \U0001f600 \ufffd"),
        ("a\0b", "a\ufffdb"),
        ("", ""),
    ],
)
def test_halves_are_joined_or_replaced(text: str, wanted: str) -> None:
    """Fails when a text can still not be written, or when anything but lone halves is changed."""
    assert repaired(text) == wanted
    assert repaired(text).encode().decode() == wanted


def test_sound_text_is_the_same_object() -> None:
    """Fails when text without halves is copied: every caption of a run passes through here."""
    for text in ("a red square", "größe \U0001f600"):
        assert is_valid(text) and repaired(text) is text


def test_every_text_of_a_value_is_repaired() -> None:
    """Fails when a half hides in a key, a list or an object inside."""
    value = json.loads('{"a\\ud83d": ["\\ude00", 1, null, {"b": "\\ud83d\\ude00"}]}')
    assert repaired_value(value) == {"a\ufffd": ["\ufffd", 1, None, {"b": "\U0001f600"}]}
