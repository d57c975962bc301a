"""Text that every encoder and tokenizer accepts.

JSON writes an emoji as two escapes of UTF-16 (`\\ud83d\\ude00`). A caption that was cut between them holds a lone half:
a Python string may contain it, UTF-8 cannot, and tokenizers, files and terminals raise on it.
"""

from __future__ import annotations

from typing import Any

REPLACEMENT = "\ufffd"  # the character that Unicode has for what cannot be represented


def repaired(text: str) -> str:
    """The text with both halves of a UTF-16 pair joined, and U+FFFD for every lone half.

    Text without halves is returned as the same object, at the cost of one look at it.
    """
    if is_sound(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def is_sound(text: str) -> bool:
    """Whether the text can be written as UTF-8."""
    if text.isascii():  # known without looking at the characters
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def repaired_value(value: Any) -> Any:
    """A JSON value with every text in it repaired, the keys of objects included."""
    if isinstance(value, str):
        return repaired(value)
    if isinstance(value, list):
        return [repaired_value(item) for item in value]
    if isinstance(value, dict):
        return {repaired_value(key): repaired_value(item) for key, item in value.items()}
    return value
