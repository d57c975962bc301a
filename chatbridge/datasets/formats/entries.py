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
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    """The fields of one record; what is absent or of another kind raises Wrong. Several names mean any one of them."""

    def __init__(self, record: Any):
        fault = check_fields(record, ())
        if fault is not None:
            raise Wrong(fault)
        self.record: dict[str, Any] = record

    def get(self, *names: str) -> Any:
        fault = check_fields(self.record, (names,))
        if fault is not None:
            raise Wrong(fault)
        return next(self.record[name] for name in names if name in self.record)

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
        """Words, or a number as words."""
        words = text_of(self.get(*names))
        if words is None:
            raise Wrong(f"{_listed(names)} is {kind_of(self.get(*names))}, expected text")
        return words

    def texts(self, *names: str) -> list[str]:
        """A text or a list of them, without empty ones; none when the field is absent or null."""
        value = next((self.record[name] for name in names if name in self.record), None)
        items = value if isinstance(value, list) else [] if value is None else [value]
        texts = [text_of(item) for item in items]
        if None in texts:
            raise Wrong(f"{_listed(names)} holds {kind_of(items[texts.index(None)])}, expected text")
        return [text for text in texts if text and text.strip()]

    def items(self, *names: str) -> list[Any]:
        value = self.get(*names)
        if not isinstance(value, list):
            raise Wrong(f"{_listed(names)} is {kind_of(value)}, expected a list")
        return value

    def kept(self, *names: str) -> dict[str, Any]:
        """Those of these fields that are there, for the details of the sample."""
        return {name: self.record[name] for name in names if name in self.record}


def text_of(value: Any) -> str | None:
    """A text as it is, a finite number written out, None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) else str(value)


def _listed(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))
