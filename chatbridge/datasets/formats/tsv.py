"""Rows of a large table of tab-separated values, without holding it: where each row lies, and its cells on demand.

Cells may be quoted as spreadsheets and pandas write them, with tabs, line breaks and doubled quotation marks inside.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chatbridge.common.errors import DataError

LARGEST_ROW = 256 * 2**20  # bytes: a quotation mark that is never closed would take the rest of the file
QUOTE = b'"'
IMAGE = re.compile(rb"[A-Za-z0-9+/=]{1024,}")  # base64; longer than any word
CUT = b"@"  # what stands for an image
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RowSpan:
    """Where a row lies: the line it begins in, from 1, and its bytes."""

    line: int
    start: int
    length: int


def row_spans(path: Path) -> Iterator[tuple[RowSpan, bytes]]:
    """Every row that is not blank, the head first, with its bytes. raises DataError for a row without an end"""
    with path.open("rb") as file:
        start, begin, content = 0, 1, b""
        for number, line in enumerate(file, 1):
            begin = begin if content else number
            content += line
            if _is_open(content):
                if len(content) > LARGEST_ROW:
                    break
                continue
            if content.strip():
                yield RowSpan(begin, start, len(content)), content
            start, content = start + len(content), b""
    if content:
        raise DataError(f"{path}: line {begin}: a quotation mark is not closed; the row has no end")


def _is_open(content: bytes) -> bool:
    """Whether a quoted cell goes on in the next line. A quotation mark inside a cell that does not begin with one is
    text, as csv and pandas read it."""
    if QUOTE not in content:
        return False
    try:
        _rows(without_images(content).decode("utf-8", "replace"), is_strict=True)
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


def cells(content: bytes) -> list[str]:
    """The cells of one row. raises ValueError for bytes that are not UTF-8, and for a line break outside quotes"""
    rows = _rows(content.removeprefix(BOM).decode("utf-8"))
    if len(rows) != 1:
        raise ValueError("has a line break outside quotation marks")
    return rows[0]


def _rows(text: str, is_strict: bool = False) -> list[list[str]]:
    """raises csv.Error, if strict, for a quoted cell without an end, or with text after its end"""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # csv's own limit is 128 KB, an image has more
    return list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=is_strict))


def without_images(content: bytes) -> bytes:
    """The row with "@" for every long run of base64: csv reads 50 MB a second, and images are most of a table."""
    return IMAGE.sub(CUT, content)


def row_at(path: Path, start: int, length: int) -> list[str]:
    """The cells of the row at these bytes. raises OSError, ValueError"""
    with path.open("rb") as file:
        file.seek(start)
        return cells(file.read(length))
