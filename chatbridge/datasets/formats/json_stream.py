"""The values of a JSON file one after another, each with a place that a message can name.

A list is read without building it: the text of the file and one value at a time are in memory, not a million
dictionaries. Layouts:

    [value, ...]                              values 0, 1, ... of section ""
    {"data": [value, ...], "info": {...}}     values 0, 1, ... of section "data"; "info" is a value of section ""
    {"2937": value, ...}                      values "2937", ... of section ""
    .jsonl                                    one value per line, of section ""

Parsers such as ijson need less memory. They report no line and column, replace half an emoji by "?" without notice,
refuse NaN and UTF-16, and exhaust the memory on deeply nested brackets.
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
RECORD_LIST = ("", "annotations")  # sections of a plain list of records, and of COCO's and MiniGPT-4's
DECODER = json.JSONDecoder()
BLANK = re.compile(r"[ \t\n\r]*")


class JsonValue(NamedTuple):
    """One value of a file.

    place    for messages: "record 7", "questions, record 7", "'2937'", "line 8"
    section  the key whose list holds it, "" for the outermost level
    key      its number in a list, its key in an object
    fault    why the line is not valid JSON, None when it is
    """

    place: str
    section: str
    key: str | int
    value: Any
    fault: str | None = None


def json_values(path: Path, in_lines: bool | None = None) -> Iterator[JsonValue]:
    """The values of any of the layouts.

    in_lines  whether every line is a value; None: by the ending of the file
    raises    DataError for a file that cannot be read or is not JSON; a broken line is that value's fault
    """
    try:
        if path.suffix.lower() in LINES if in_lines is None else in_lines:
            yield from _line_values(path)
        else:
            yield from _Parser(_text(path)).values()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except _OneRecordPerLine:
        new = path.with_suffix(".jsonl").name
        raise DataError(f"{path}: holds one record per line, not one JSON value; rename it to {new}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is not valid JSON: {_reason(error)}") from None


def section(path: Path, *names: str) -> Iterator[JsonValue]:
    """The values of the first of these sections that the file has; "" is a plain list. An empty file has none.

    raises   DataError that lists the keys of the file when it has others only
    """
    found, others = None, {}
    for value in json_values(path):
        name = value.section if isinstance(value.key, int) else None  # None: a key of the outermost object
        if name in names and found in (None, name):
            found = name
            yield value
        else:
            others.setdefault(value.section or (value.key if isinstance(value.key, str) else "a list"), None)
    if found is None and others:
        is_list = "" in names and path.suffix.lower() not in LINES
        hint = "; a file with one record per line must end in .jsonl" if is_list else ""
        raise DataError(f"{path}: {_absent(names, tuple(others))}{hint}")


def rows(path: Path) -> Iterator[JsonValue]:
    """The values of a plain list, or of lines whatever the file is called: NLVR's train.json has a record per line.

    raises   DataError as `section` does
    """
    return json_values(path, in_lines=True) if _has_lines(path) else section(path, "")


def _has_lines(path: Path) -> bool:
    """Whether the first line of a file is a whole object."""
    try:
        with path.open("rb") as file:
            first = next((line for line in file if line.strip()), b"")
        return isinstance(json.loads(first), dict)
    except (OSError, ValueError, RecursionError):
        return False


class _OneRecordPerLine(ValueError):
    """A file holds several objects in a row."""


class _Parser:
    """Reads a JSON text from left to right; values inside the outermost two levels are decoded by the json module."""

    def __init__(self, text: str):
        self.text, self.at = text, 0

    def values(self) -> Iterator[JsonValue]:
        start = self._peek()
        if start == "[":
            for number, value in enumerate(self._list()):
                yield JsonValue(f"record {number}", "", number, value)
        elif start == "{":
            for key in self._keys():
                if self._peek() == "[":
                    for number, value in enumerate(self._list()):
                        yield JsonValue(f"{key}, record {number}", key, number, value)
                else:
                    yield JsonValue(repr(key), "", key, self._value())
        else:
            yield JsonValue("", "", "the whole file", self._value())
        if self._peek() == "{" == start:
            raise _OneRecordPerLine
        if self._peek():
            raise JSONDecodeError("Extra data", self.text, self.at)

    def _list(self) -> Iterator[Any]:
        self._take("[")
        if self._peek() == "]":
            self.at += 1
            return
        yield self._value()
        while self._take(",]") == ",":
            yield self._value()

    def _keys(self) -> Iterator[str]:
        """The keys of an object; the caller reads the value before it asks for the next key."""
        self._take("{")
        if self._peek() == "}":
            self.at += 1
            return
        while True:
            if self._peek() != '"':
                raise JSONDecodeError("Expecting a key in quotes", self.text, self.at)
            key = self._value()
            self._take(":")
            yield key
            if self._take(",}") == "}":
                return

    def _value(self) -> Any:
        self._peek()
        value, self.at = DECODER.raw_decode(self.text, self.at)
        return value

    def _take(self, allowed: str) -> str:
        """The next character, which must be one of these."""
        found = self._peek()
        if not found or found not in allowed:
            raise JSONDecodeError(f"Expecting {' or '.join(map(repr, allowed))}", self.text, self.at)
        self.at += 1
        return found

    def _peek(self) -> str:
        """The next character that is not white space, "" at the end."""
        if self.text[self.at : self.at + 1] > " ":
            return self.text[self.at]
        self.at = BLANK.match(self.text, self.at).end()  # pyright: ignore[reportOptionalMemberAccess]
        return self.text[self.at : self.at + 1]


def _line_values(path: Path) -> Iterator[JsonValue]:
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
                fault = f"is not valid JSON: {_reason(error, with_line=False)}"
            if not count and _is_part_of_one_value(line, value):
                raise DataError(
                    f"{path}: is one JSON value over the whole file, expected one record per line; rename it to "
                    f"{path.with_suffix('.json').name}"
                )
            yield JsonValue(f"line {number}", "", count, value, fault)
            count += 1


def _is_part_of_one_value(line: bytes, value: Any) -> bool:
    """Whether a first line begins a list of records, or an object that continues on the next line."""
    return line.strip() in (b"[", b"{", b"[{") or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def _text(path: Path) -> str:
    content = path.read_bytes()
    what = other_kind(content[:HEAD], path)
    if what is not None and not is_utf16(content[: min(HEAD, len(content)) & ~1]):  # UTF-16 is decoded below
        raise DataError(f"{path}: {what}")
    return content.decode(json.detect_encoding(content), "surrogatepass")  # a byte order mark is removed


def _reason(error: Exception, with_line: bool = True) -> str:
    if isinstance(error, RecursionError):
        return "its brackets are nested too deeply"
    if isinstance(error, JSONDecodeError):
        return f"{error.msg} at {f'line {error.lineno}, ' if with_line else ''}column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not valid {error.encoding.upper()}"
    return str(error)


def _absent(names: Iterable[str], there: Sequence[str]) -> str:
    wanted = " or ".join(repr(name) if name else "a list of records" for name in names)
    guess = next((guess for name in names if name and (guess := nearest(name, there))), None)
    meant = f"; is {guess!r} misspelled?" if guess else ""
    return f"expected {wanted}, found {', '.join(map(repr, there[:8]))}{meant}"
