"""Items of a JSON file one after another, with the place that a message can name.

A list is walked without building it: the text of the file and one item at a time are in memory, not a million
dictionaries. Layouts that are walked:

    [item, ...]                              items 0, 1, ... of section ""
    {"data": [item, ...], "info": {...}}     items 0, 1, ... of section "data"; "info" is an item of section ""
    {"2937": item, ...}                      items "2937", ... of section ""
    .jsonl                                   one item per line, of section ""
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from json.decoder import JSONDecodeError
from pathlib import Path
from typing import Any, NamedTuple

from chatbridge.common.errors import DataError, nearest
from chatbridge.common.file_kind import HEAD, other_kind, refuse_other_kind
from chatbridge.common.text_repair import is_utf16

LINES = (".jsonl", ".ndjson")  # endings of files with one record per line
DECODER = json.JSONDecoder()
BLANK = re.compile(r"[ \t\n\r]*")


class Item(NamedTuple):
    """One value of a file.

    place    for messages: "record 7", "questions, record 7", "'2937'", "line 8"
    section  the key whose list it is from, "" for the outermost level
    key      its number in a list, its key in an object
    fault    why the line is no JSON, None when it is
    """

    place: str
    section: str
    key: str | int
    value: Any
    fault: str | None = None


def json_items(path: Path) -> Iterator[Item]:
    """raises   DataError for a file that cannot be read or is no JSON; a broken line of a .jsonl is an item's fault"""
    try:
        if path.suffix.lower() in LINES:
            yield from _lines(path)
        else:
            yield from _walk(_Cursor(_text(path)))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except DataError:
        raise
    except _OneEach:
        new = path.with_suffix(".jsonl").name
        raise DataError(f"{path}: holds one record per line, not one JSON value; rename it to {new}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON: {_reason(error)}") from None


def section(path: Path, *names: str) -> Iterator[Item]:
    """The items of the first of these sections that the file has; "" stands for a plain list. An empty file has none.

    raises   DataError that lists the keys of the file when it has others only
    """
    found, others = None, {}
    for item in json_items(path):
        name = item.section if isinstance(item.key, int) else None  # None: a key of the outermost object
        if name in names and found in (None, name):
            found = name
            yield item
        else:
            others.setdefault(item.section or (item.key if isinstance(item.key, str) else "a list"), None)
    if found is None and others:
        raise DataError(f"{path}: {_absent(names, tuple(others))}")


class _OneEach(ValueError):
    """A file holds one object behind the other."""


class _Cursor:
    """A place in a JSON text."""

    def __init__(self, text: str):
        self.text, self.at = text, 0

    def peek(self) -> str:
        """The next sign that is no white space, "" at the end."""
        self.at = BLANK.match(self.text, self.at).end()  # pyright: ignore[reportOptionalMemberAccess]
        return self.text[self.at : self.at + 1]

    def value(self) -> Any:
        self.peek()
        value, self.at = DECODER.raw_decode(self.text, self.at)
        return value

    def take(self, signs: str) -> str:
        """The next sign, which must be one of these."""
        sign = self.peek()
        if not sign or sign not in signs:
            raise JSONDecodeError(f"Expecting {' or '.join(map(repr, signs))}", self.text, self.at)
        self.at += 1
        return sign

    def list_items(self) -> Iterator[Any]:
        self.take("[")
        if self.peek() == "]":
            self.at += 1
            return
        yield self.value()
        while self.take(",]") == ",":
            yield self.value()

    def members(self) -> Iterator[str]:
        """The keys of an object; whoever asks reads the value before the next one."""
        self.take("{")
        if self.peek() == "}":
            self.at += 1
            return
        while True:
            if self.peek() != '"':
                raise JSONDecodeError("Expecting a key in quotes", self.text, self.at)
            key = self.value()
            self.take(":")
            yield key
            if self.take(",}") == "}":
                return


def _walk(cursor: _Cursor) -> Iterator[Item]:
    start = cursor.peek()
    if start == "[":
        for number, value in enumerate(cursor.list_items()):
            yield Item(f"record {number}", "", number, value)
    elif start == "{":
        for key in cursor.members():
            if cursor.peek() == "[":
                for number, value in enumerate(cursor.list_items()):
                    yield Item(f"{key}, record {number}", key, number, value)
            else:
                yield Item(repr(key), "", key, cursor.value())
    else:
        yield Item("", "", "the whole file", cursor.value())
    if cursor.peek() == "{" == start:
        raise _OneEach
    if cursor.peek():
        raise JSONDecodeError("Extra data", cursor.text, cursor.at)


def _lines(path: Path) -> Iterator[Item]:
    refuse_other_kind(path, may_be_empty=True)
    with path.open("rb") as file:
        count = 0
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            value, fault = None, None
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                fault = f"is no JSON: {_reason(error, with_line=False)}"
            if not count and _is_part_of_one_value(line, value):
                raise DataError(
                    f"{path}: is one JSON value over the whole file, expected one record per line; rename it to "
                    f"{path.with_suffix('.json').name}"
                )
            yield Item(f"line {number}", "", count, value, fault)
            count += 1


def _is_part_of_one_value(line: bytes, value: Any) -> bool:
    """Whether a first line begins a list of records, or an object that goes on in the next line."""
    return line.strip() in (b"[", b"{", b"[{") or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def _text(path: Path) -> str:
    content = path.read_bytes()
    what = other_kind(content[:HEAD], path)
    if what is not None and not is_utf16(content[: min(HEAD, len(content)) & ~1]):  # which the next line can read
        raise DataError(f"{path}: {what}")
    return content.decode(json.detect_encoding(content), "surrogatepass")  # a byte order mark is taken off


def _reason(error: Exception, with_line: bool = True) -> str:
    if isinstance(error, RecursionError):
        return "its brackets are nested too deeply"
    if isinstance(error, JSONDecodeError):
        return f"{error.msg} at {f'line {error.lineno}, ' if with_line else ''}column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no {error.encoding.upper()} text"
    return str(error)


def _absent(names: Iterable[str], there: Sequence[str]) -> str:
    wanted = " or ".join(repr(name) if name else "a list of records" for name in names)
    guess = next((guess for name in names if name and (guess := nearest(name, there))), None)
    meant = f"; is {guess!r} misspelled?" if guess else ""
    return f"expected {wanted}, found {', '.join(map(repr, there[:8]))}{meant}"
