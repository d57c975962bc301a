"""Typed access to the fields of one JSON record; a field that is absent or has another type is a BadRecord."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from chatbridge.common.errors import nearest


class BadRecord(ValueError):
    """Why one record cannot be used. `formats.records.parsed` adds its place in the file."""


class Fields:
    """The fields of one record.

    Several names are spellings of one field: the first that is not empty counts (null, "", [] are empty), and two with
    different values are a BadRecord. `first` chooses between fields that mean different things.
    """

    def __init__(self, record: Any):
        fault = check_fields(record, ())
        if fault is not None:
            raise BadRecord(fault)
        self.record: dict[str, Any] = record

    def require(self, *names: str) -> None:
        """Check that the record has one of these fields."""
        if self.record.keys().isdisjoint(names):
            raise BadRecord(check_fields(self.record, (names,)))

    def get(self, *names: str) -> Any:
        """The value of a required field."""
        self.require(*names)
        return self._value(names)

    def first(self, *names: str) -> str:
        """The first of these fields that is not empty; the first name when all are, for the message."""
        return next((name for name in names if not is_empty(self.record.get(name))), names[0])

    def name(self, *names: str) -> str:
        """An id: text or a whole number."""
        value = self.get(*names)
        if file_name_of(value) is None or not str(value).strip():
            raise BadRecord(f"{self._listed(names)} is {kind_of(value)}, expected text or a whole number")
        return str(value)

    def new_name(self, field: str, seen: set[str], noun: str = "") -> str:
        """An id that no earlier record has, which is added to `seen`. noun: for the message, instead of the field"""
        value = self.name(field)
        if value in seen:
            raise BadRecord(f"{noun or field} {value} is defined twice")
        seen.add(value)
        return value

    def number(self, *names: str) -> int:
        """A whole number, which may be in quotes."""
        value = self.name(*names)
        if not value.isdecimal():
            raise BadRecord(f"{self._listed(names)} is {kind_of(value)}, expected a whole number")
        return int(value)

    def text(self, *names: str) -> str:
        """A text; a number is not one."""
        value = self.get(*names)
        if not isinstance(value, str):
            raise BadRecord(f"{self._listed(names)} is {kind_of(value)}, expected text")
        return value

    def texts(self, *names: str) -> tuple[str, ...]:
        """A text or a list of texts, without empty ones; () when the field is absent or null."""
        return self._optional(names, text_of, "text")

    def answers(self, *names: str) -> tuple[str, ...]:
        """The same for answers, which may be numbers: counts are often written without quotes."""
        return self._optional(names, answer_of, "text or a number")

    def numbered_answers(self, *names: str) -> tuple[str, ...]:
        """Answers that are chosen by their number: empty ones keep their place. () as `answers`"""
        return () if not self.answers(*names) else self.one_or_more(*names, read=answer_of)

    def files(self, *names: str) -> tuple[str, ...]:
        """The same for names of files, which may be whole numbers, as ids are."""
        return self._optional(names, file_name_of, "the name of a file")

    def items(self, *names: str) -> list[Any]:
        """The values of a required list."""
        value = self.get(*names)
        if not isinstance(value, list):
            raise BadRecord(f"{self._listed(names)} is {kind_of(value)}, expected a list")
        return value

    def one_or_more(self, *names: str, read: Callable[[Any], str | None] | None = None) -> tuple[str, ...]:
        """A required text or list of texts, empty texts included.

        read   the text of a JSON value, None for one that has none; `answer_of` where numbers are answers
        """
        value = self.get(*names)
        items = value if isinstance(value, list) else [value]
        texts = [(read or text_of)(item) for item in items]
        if texts and None not in texts:
            return tuple(text for text in texts if text is not None)
        wrong = [kind_of(item) for item, text in zip(items, texts) if text is None]
        found = "an empty list" if not wrong else f"a list that holds {wrong[0]}" if items is value else wrong[0]
        raise BadRecord(f"{self._listed(names)} is neither text nor a list of texts: {found}")

    def kept(self, *names: str) -> dict[str, Any]:
        """Those of these fields that are there, for the details of the record."""
        return {name: self.record[name] for name in names if name in self.record}

    def others(self, *names: str) -> dict[str, Any]:
        """All fields but these, for the details of the record."""
        return {name: value for name, value in self.record.items() if name not in names}

    def _value(self, names: tuple[str, ...]) -> Any:
        name = names[0] if len(names) == 1 else spelling(self.record, names)
        return None if name is None else self.record.get(name)

    def _optional(self, names: tuple[str, ...], read: Callable[[Any], str | None], expected: str) -> tuple[str, ...]:
        value = self._value(names)
        items = value if isinstance(value, list) else [] if value is None else [value]
        texts = [read(item) for item in items]
        wrong = sorted((item for item, text in zip(items, texts) if text is None), key=lambda item: item is not None)
        if wrong:
            found = " and ".join(dict.fromkeys(map(kind_of, wrong)))
            raise BadRecord(f"{self._listed(names)} holds {found}, expected {expected}")
        return tuple(text for text in texts if text and text.strip())

    def _listed(self, names: Sequence[str]) -> str:
        """The spelling that the record uses."""
        return repr(spelling(self.record, names) or names[0])


def check_fields(record: Any, required: Iterable[str | tuple[str, ...]]) -> str | None:
    """What is wrong with the fields of a record, or None; a tuple asks for any one of its names."""
    if not isinstance(record, dict):
        return f"expected an object with fields, got {kind_of(record)}"
    for names in required:
        names = (names,) if isinstance(names, str) else names
        if not any(name in record for name in names):
            guesses = ((key, nearest(key, names)) for key in record)
            meant = next((f"; found {key!r}, did you mean {guess!r}?" for key, guess in guesses if guess), None)
            found = meant or f"; its fields: {', '.join(map(repr, list(record)[:8])) or 'none'}"
            return f"has no {' or '.join(map(repr, names))}{found}"
    return None


def spelling(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Which of several spellings of one field a record uses: the first that is not empty, else the first that is there.

    raises   BadRecord when two spellings have different values
    """
    there = [name for name in names if name in record]
    used = [name for name in there if not is_empty(record[name])]
    for other in used[1:]:
        if _as_list(record[other]) != _as_list(record[used[0]]):
            raise BadRecord(
                f"{used[0]!r} is {kind_of(record[used[0]])} and {other!r} is {kind_of(record[other])}: two spellings "
                "of one field with different values; remove one of them"
            )
    return next(iter([*used, *there]), None)


def is_empty(value: Any) -> bool:
    """Whether a field is null, "", blank, an empty list or object. False and 0 are values."""
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def kind_of(value: Any) -> str:
    """A JSON value in words, for messages."""
    words = {
        dict: "an object",
        list: "a list",
        str: f"the text {str(value)[:40]!r}",
        bool: "true or false",
        type(None): "null",
    }
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}, which is not a JSON number"
    return words.get(type(value), f"the number {value}")


def text_of(value: Any) -> str | None:
    """A text; None for anything else."""
    return value if isinstance(value, str) else None


def file_name_of(value: Any) -> str | None:
    """The name of a file: text, or a whole number; None for anything else."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number else text_of(value)


def answer_of(value: Any) -> str | None:
    """An answer: a text as it is, a finite number written out ("3" for 3 and 3.0), None for anything else.

    Published files write numbers in quotes; files converted with pandas or a spreadsheet often do not.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # of any length: a float holds 308 digits
    if not isinstance(value, float) or not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) else str(value)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
