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
        start, begin, number, lines, size = 0, 1, 0, list[bytes](), 0
        is_open = False
        for line in file:
            number += 1
            begin = begin if lines else number
            lines.append(line)
            size += len(line)
            is_open ^= line.count(QUOTE) % 2 == 1
            if is_open and size < LARGEST_ROW:
                continue
            if is_open:
                break
            content = b"".join(lines)
            if content.strip():
                yield RowSpan(begin, start, size), content
            start, lines, size = start + size, [], 0
    if is_open:
        raise DataError(f"{path}: line {begin}: a quotation mark is not closed; the row has no end")


def cells(content: bytes) -> list[str]:
    """The cells of one row. raises ValueError for bytes that are not UTF-8"""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # csv's own limit is 128 KB, an image has more
    text = content.removeprefix(BOM).decode("utf-8")
    return next(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))


def without_images(content: bytes) -> bytes:
    """The row with "@" for every long run of base64: csv reads 50 MB a second, and images are most of a table."""
    return IMAGE.sub(CUT, content)


def row_at(path: Path, start: int, length: int) -> list[str]:
    """The cells of the row at these bytes. raises OSError, ValueError"""
    with path.open("rb") as file:
        file.seek(start)
        return cells(file.read(length))
