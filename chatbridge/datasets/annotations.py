"""Annotation files: read once with every fault named by its line, kept packed.

A list of a million dictionaries costs gigabytes, and forked workers copy it page by page as they touch the reference
counts. Packed records are one block of bytes and one array of offsets; a record is parsed when it is asked for.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError, nearest
from chatbridge.common.text_repair import repaired_value
from chatbridge.datasets.formats.json_items import LINES, Item, section

Check = Callable[[Any], str | None]  # what is wrong with a record, or None
MOST_SHOWN = 5
ZERO = b"\\u0000"  # how json.dumps writes it
logger = logging.getLogger(__name__)


class Packed:
    """JSON values by index, about as large as their file. `note` says how many were repaired."""

    def __init__(self, texts: Iterable[bytes]):
        parts = list(texts)
        self.note: str | None = None
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self._bytes = b"".join(parts)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        start = int(self._ends[index - 1]) if index else 0
        return json.loads(self._bytes[start : int(self._ends[index])])


def load_annotations(path: Path, check: Check) -> Packed:
    """All records of a JSON list (MiniGPT-4 and COCO put it below "annotations"), or of a `.jsonl` file, one per line.

    check    says what is wrong with a record
    raises   DataError for a file that cannot be read, is not such a list, or has records that `check` rejects
             (the first five with their line or number, and how many there are)
    """
    return pack(path, ((item.place, item.value, item.fault or check(item.value)) for item in annotation_items(path)))


def pack(path: Path, records: Iterable[tuple[str, Any, str | None]]) -> Packed:
    """Records as (place in the file, value, what is wrong with it or None), packed; raises DataError for wrong ones."""
    faults: list[str] = []
    repairs: list[str] = []
    count = 0

    def texts() -> Iterator[bytes]:
        nonlocal count
        for place, value, fault in records:
            if fault is not None:
                count += 1
                if count <= MOST_SHOWN:
                    faults.append(f"{place}: {fault}")
            elif not count:
                content = _encoded(value)
                if content is None:
                    repairs.append(place)
                    content = _encoded(repaired_value(value)) or b"null"
                yield content

    packed = Packed(texts())
    if faults:
        raise DataError(_report(path, faults, count))
    if repairs:
        what = "1 record held" if len(repairs) == 1 else f"{len(repairs):,} records held"
        packed.note = f"{what} half an emoji or a zero character, replaced by U+FFFD (the first: {repairs[0]})"
        logger.info("%s: %s", path, packed.note)
    return packed


def annotation_items(path: Path) -> Iterator[Item]:
    """Items of a JSON list, of one below "annotations", or of a `.jsonl` file."""
    try:
        yield from section(path, "", "annotations")
    except DataError as error:
        is_another_layout = "expected" in str(error) and path.suffix.lower() not in LINES
        hint = "; one record per line belongs in a .jsonl" if is_another_layout else ""
        raise DataError(f"{error}{hint}") from None


def _encoded(value: Any) -> bytes | None:
    """None when it holds text that has to be repaired."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:  # NaN or Infinity in a field that nobody checked: results would be no JSON any more
        text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))
    try:
        content = text.encode()
    except UnicodeEncodeError:  # half of a pair from "\\ud83d": no text, and no tokenizer takes it
        return None
    return None if ZERO in content and repaired_value(value) != value else content


def _finite(value: Any) -> Any:
    """The same with null for every number that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_fields(record: Any, required: Iterable[str | tuple[str, ...]]) -> str | None:
    """What is wrong with the fields of a record; a tuple asks for any one of its names."""
    if not isinstance(record, dict):
        return f"expected an object with fields, got {kind_of(record)}"
    for names in required:
        names = (names,) if isinstance(names, str) else names
        if not any(name in record for name in names):
            guesses = (nearest(key, names) for key in record)
            meant = next(
                (f"; {key!r} is there, did you mean {guess!r}?" for key, guess in zip(record, guesses) if guess), ""
            )
            return f"has no {' or '.join(map(repr, names))}{meant or f'; its fields: {_listed(record)}'}"
    return None


def kind_of(value: Any) -> str:
    """A JSON value in words."""
    words = {
        dict: "an object",
        list: "a list",
        str: f"the text {str(value)[:40]!r}",
        bool: "true or false",
        type(None): "null",
    }
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}, which is no number in JSON"
    return words.get(type(value), f"the number {value}")


def _report(path: Path, faults: list[str], count: int) -> str:
    records = "1 record" if count == 1 else f"{count} records"
    rest = [f"... and {count - MOST_SHOWN} more"] if count > MOST_SHOWN else []
    return "\n    ".join([f"{path}: {records} cannot be used", *faults, *rest])


def _listed(record: dict[str, Any]) -> str:
    return ", ".join(map(repr, list(record)[:8])) or "none"
