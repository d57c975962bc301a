"""Annotation files: read once with every fault named by its line, kept packed.

A list of a million dictionaries costs gigabytes, and forked workers copy it page by page as they touch the reference
counts. Packed records are one block of bytes and one array of offsets; a record is parsed when it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError, nearest

Check = Callable[[Any], str | None]  # what is wrong with a record, or None
MOST_SHOWN = 5


class Packed:
    """JSON values by index, about as large as their file."""

    def __init__(self, texts: Iterable[bytes]):
        parts = list(texts)
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
    lines = path.suffix.lower() in (".jsonl", ".ndjson")
    texts: list[bytes] = []
    faults: list[str] = []
    for place, record in _read_lines(path) if lines else _read_list(path):
        fault = record.reason if isinstance(record, _Broken) else check(record)
        if fault is not None:
            faults.append(f"{place}: {fault}")
        elif not faults:
            texts.append(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode())
    if faults:
        raise DataError(_report(path, faults))
    return Packed(texts)


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
    return words.get(type(value), f"the number {value}")


class _Broken:
    """A line that is no JSON."""

    def __init__(self, reason: str):
        self.reason = reason


def _read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except ValueError as error:
                yield f"line {number}", _Broken(f"is no JSON: {_reason(error, with_line=False)}")


def _read_list(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        records = json.loads(_read(path))
    except ValueError as error:
        raise DataError(f"{path}: is no JSON: {_reason(error)}") from None
    if isinstance(records, dict) and isinstance(records.get("annotations"), list):
        records = records["annotations"]
    if not isinstance(records, list):
        raise DataError(
            f"{path}: expected a list of records, got {kind_of(records)}; one record per line belongs in a .jsonl"
        )
    for number, record in enumerate(records):
        yield f"record {number}", record


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _reason(error: ValueError, with_line: bool = True) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at {f'line {error.lineno}, ' if with_line else ''}column {error.colno}"
    return str(error)


def _report(path: Path, faults: list[str]) -> str:
    count = "1 record" if len(faults) == 1 else f"{len(faults)} records"
    rest = [f"... and {len(faults) - MOST_SHOWN} more"] if len(faults) > MOST_SHOWN else []
    return "\n    ".join([f"{path}: {count} cannot be used", *faults[:MOST_SHOWN], *rest])


def _listed(record: dict[str, Any]) -> str:
    return ", ".join(map(repr, list(record)[:8])) or "none"
