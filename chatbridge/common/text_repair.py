"""Repair text that encoders and tokenizers reject.

JSON writes an emoji as two escapes of UTF-16 (`\\ud83d\\ude00`). A caption cut between them contains a lone surrogate:
valid in a Python string but not in UTF-8, so tokenizers, files and terminals raise an error. A zero character ends file
names and the strings of C libraries.
"""

from __future__ import annotations

from typing import Any

REPLACEMENT = "\ufffd"  # Unicode's replacement character


def repaired(text: str) -> str:
    """Return the text with surrogate pairs joined, and U+FFFD for lone surrogates and zero characters.

    Valid text is returned as the same object.
    """
    if is_valid(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\0", REPLACEMENT)


def is_valid(text: str) -> bool:
    """Return whether the text can be encoded as UTF-8 and contains no zero character."""
    if "\0" in text:
        return False
    if text.isascii():  # O(1)
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_utf16(content: bytes) -> bool:
    """Return whether bytes are UTF-16: they have a BOM, or every second of the first 8 bytes is zero (ASCII text)."""
    if len(content) % 2 or len(content) < 4:
        return False
    has_mark = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    return has_mark or any(not any(content[at:8:2]) and all(content[1 - at : 8 : 2]) for at in (0, 1))


def repaired_value(value: Any) -> Any:
    """Return a JSON value with every text in it repaired, keys of objects included."""
    if isinstance(value, str):
        return repaired(value)
    if isinstance(value, list):
        return [repaired_value(item) for item in value]
    if isinstance(value, dict):
        return {repaired_value(key): repaired_value(item) for key, item in value.items()}
    return value
