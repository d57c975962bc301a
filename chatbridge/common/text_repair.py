"""Text that every encoder and tokenizer accepts.

JSON writes an emoji as two escapes of UTF-16 (`\\ud83d\\ude00`). A caption that was cut between them holds a lone half:
a Python string may contain it, UTF-8 cannot, and tokenizers, files and terminals raise on it. A character of value zero
ends names of files and the strings of libraries written in C.
"""

from __future__ import annotations

from typing import Any

REPLACEMENT = "\ufffd"  # the character that Unicode has for what cannot be represented


def repaired(text: str) -> str:
    """The text with both halves of a UTF-16 pair joined, and U+FFFD for every lone half and every zero character.

    Sound text is returned as the same object, at the cost of one look at it.
    """
    if is_sound(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\0", REPLACEMENT)


def is_sound(text: str) -> bool:
    """Whether the text can be written as UTF-8, and holds no zero character."""
    if "\0" in text:
        return False
    if text.isascii():  # known without looking at the characters
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_utf16(content: bytes) -> bool:
    """Whether bytes are UTF-16: by their mark, or because every other one of the first is zero, as in plain English."""
    if len(content) % 2 or len(content) < 4:
        return False
    has_mark = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    return has_mark or any(not any(content[at:8:2]) and all(content[1 - at : 8 : 2]) for at in (0, 1))


def repaired_value(value: Any) -> Any:
    """A JSON value with every text in it repaired, the keys of objects included."""
    if isinstance(value, str):
        return repaired(value)
    if isinstance(value, list):
        return [repaired_value(item) for item in value]
    if isinstance(value, dict):
        return {repaired_value(key): repaired_value(item) for key, item in value.items()}
    return value
