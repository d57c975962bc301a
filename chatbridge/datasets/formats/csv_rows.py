"""The rows of a small CSV file, one after another, each with the line that a message can name."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from chatbridge.common.errors import DataError, nearest
from chatbridge.common.file_kind import refuse_other_kind
from chatbridge.datasets.formats.json_stream import JsonValue


def csv_rows(path: Path, *needed: str) -> Iterator[JsonValue]:
    """Every row as an object from column to text, with the place "line 7".

    needed   columns that the head must have
    raises   DataError for a file that cannot be read, is not CSV, or lacks a column
    """
    text = file_text(path)
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        head = [name.strip() for name in next(reader, [])]
        _check_head(path, head, needed)
        line = reader.line_num + 1
        for number, cells in enumerate(reader):
            fault = f"has {len(cells)} cells, expected {len(head)}" if len(cells) != len(head) else None
            if any(cell.strip() for cell in cells):
                yield JsonValue(f"line {line}", "", number, dict(zip(head, cells)), fault)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: is not CSV: {error}") from None


def file_text(path: Path) -> str:
    """The content of a UTF-8 file without its byte order mark. raises DataError that states what it is instead"""
    try:
        refuse_other_kind(path)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{path}: line {line}: has a zero byte, as in a damaged file; download it again")
    return text


def _check_head(path: Path, head: Sequence[str], needed: Sequence[str]) -> None:
    for name in needed:
        if name not in head:
            found = ", ".join(map(repr, head[:8]))[:200] or "none"
            guess = nearest(name, head)
            meant = f"; is {guess!r} misspelled?" if guess else ""
            raise DataError(f"{path}: has no column {name!r}; its columns: {found}{meant}")
