"""What every reader of a public layout gives: entries with the normalised record that the builders know.

A normalised record keeps the annotation's own fields that results may be grouped by, and adds (the leading "_" keeps
them apart from any annotation's names):

    _id             how the sample is called: the annotation's own id, not the file's
    _media          names under which its one file may lie, the likeliest first; the builder's tag says which media
    _files          instead of it: {"image": ["a.jpg", "b.jpg"]}, exactly these files, none when it is empty
    _answers        every right answer or caption; empty: a test split that keeps its answers
    _unanswered     true when the last question of a dialogue has no answer
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from chatbridge.datasets.annotations import check_fields, kind_of
from chatbridge.datasets.formats.json_items import Item


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a reader may be told; the builders' Config explains the keys."""

    annotations: Path
    questions: Path | None = None
    mapping: Path | None = None
    choices: bool = False
    full_answers: bool = False
    context: tuple[str, ...] = ()
    preamble: bool = False


class Entry(NamedTuple):
    """A normalised record and where it stands in its file, or what is wrong there."""

    place: str
    record: dict[str, Any]
    fault: str | None = None


@dataclass(frozen=True)
class Format:
    """A layout: what reads it, and which keys of the builder's Config beside `annotations` it takes.

    needs    keys that must be given, with what belongs there
    """

    read: Callable[[Options], Iterator[Entry]]
    takes: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)


class Wrong(ValueError):
    """What is wrong with one record; its place is added by `entries`."""


def entries(items: Iterable[Item], read: Callable[[Any], dict[str, Any]]) -> Iterator[Entry]:
    """One entry per item."""
    for item in items:
        yield entry(item, lambda item=item: read(item.value))


def entry(item: Item, read: Callable[[], dict[str, Any]], inside: str = "") -> Entry:
    """`inside` continues the place: ", question 3"."""
    if item.fault is not None:
        return Entry(item.place, {}, item.fault)
    try:
        return Entry(item.place + inside, read())
    except Wrong as error:
        return Entry(item.place + inside, {}, str(error))


class Fields:
    """The fields of one record; what is absent or of another kind raises Wrong.

    Several names are spellings of one field: the first that is not empty counts (null, "", [] are empty), and two with
    different values are Wrong. `first` chooses between fields that mean different things.
    """

    def __init__(self, record: Any):
        fault = check_fields(record, ())
        if fault is not None:
            raise Wrong(fault)
        self.record: dict[str, Any] = record

    def get(self, *names: str) -> Any:
        fault = check_fields(self.record, (names,))
        if fault is not None:
            raise Wrong(fault)
        return self._spelled(names)

    def _spelled(self, names: tuple[str, ...]) -> Any:
        """The value under one of these names; empty ones only when there is no other."""
        name = spelling(self.record, names)
        return None if name is None else self.record[name]

    def first(self, *names: str) -> str:
        """The first of these fields that is not empty; the first name when all are, for the message."""
        return next((name for name in names if not is_empty(self.record.get(name))), names[0])

    def name(self, *names: str) -> str:
        """An id: text or a whole number."""
        value = self.get(*names)
        if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
            raise Wrong(f"{_listed(names)} is {kind_of(value)}, expected text or a whole number")
        return str(value)

    def number(self, *names: str) -> int:
        """A whole number, which may stand in quotes."""
        value = self.name(*names)
        if not value.isdecimal():
            raise Wrong(f"{_listed(names)} is {kind_of(value)}, expected a whole number")
        return int(value)

    def text(self, *names: str) -> str:
        """Words; a number is none."""
        value = self.get(*names)
        if not isinstance(value, str):
            raise Wrong(f"{_listed(names)} is {kind_of(value)}, expected text")
        return value

    def texts(self, *names: str) -> list[str]:
        """A text or a list of them, without empty ones; none when the field is absent or null."""
        return self._list(names, lambda item: item if isinstance(item, str) else None, "text")

    def answers(self, *names: str) -> list[str]:
        """The same for answers, which may be numbers: counts are often written without quotes."""
        return self._list(names, answer_of, "text or a number")

    def files(self, *names: str) -> list[str]:
        """The same for names of files, which may be whole numbers, as ids are."""
        return self._list(names, file_name_of, "the name of a file")

    def _list(self, names: tuple[str, ...], read: Callable[[Any], str | None], expected: str) -> list[str]:
        value = self._spelled(names)
        items = value if isinstance(value, list) else [] if value is None else [value]
        texts = [read(item) for item in items]
        wrong = sorted((item for item, text in zip(items, texts) if text is None), key=lambda item: item is not None)
        if wrong:
            found = " and ".join(dict.fromkeys(map(kind_of, wrong)))
            raise Wrong(f"{_listed(names)} holds {found}, expected {expected}")
        return [text for text in texts if text and text.strip()]

    def items(self, *names: str) -> list[Any]:
        value = self.get(*names)
        if not isinstance(value, list):
            raise Wrong(f"{_listed(names)} is {kind_of(value)}, expected a list")
        return value

    def kept(self, *names: str) -> dict[str, Any]:
        """Those of these fields that are there, for the details of the sample."""
        return {name: self.record[name] for name in names if name in self.record}


def is_empty(value: Any) -> bool:
    """Whether a field says nothing: null, "", blanks, an empty list or object. False and 0 are values."""
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def spelling(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Which of several spellings of one field a record uses: the first that is not empty, else the first that is there.

    raises   Wrong when two spellings have different values
    """
    there = [name for name in names if name in record]
    used = [name for name in there if not is_empty(record[name])]
    for other in used[1:]:
        if _as_list(record[other]) != _as_list(record[used[0]]):
            raise Wrong(
                f"{used[0]!r} is {kind_of(record[used[0]])} and {other!r} is {kind_of(record[other])}: two spellings "
                "of one field with different values; remove one of them"
            )
    return next(iter([*used, *there]), None)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def file_name_of(value: Any) -> str | None:
    """The name of a file: text, or a whole number; None for anything else."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number else value if isinstance(value, str) else None


def answer_of(value: Any) -> str | None:
    """An answer: a text as it is, a finite number written out ("3" for 3 and 3.0), None for anything else.

    Published files write numbers in quotes; converted ones (pandas, spreadsheets) and people do not.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) else str(value)


def _listed(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))
