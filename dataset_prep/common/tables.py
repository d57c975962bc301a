"""The rows of a csv, with every fault named by its line."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.common.file_kind import refuse_other_kind

MOST_LINES = 20  # of one row: a text may hold line breaks, a quote that is never closed takes all that follows


def rows_of(path: Path, columns: Collection[str], hint: str = "") -> Iterator[tuple[int, dict[str, str]]]:
    """(line, column -> text) of every row; what a short row lacks is "".

    hint     what to do when a column is not there
    raises   DataError for a file that is no such csv, is no UTF-8, or has a quote that is never closed
    """
    line = 1
    refuse_other_kind(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            there = rows.fieldnames or ()
            if absent := [name for name in columns if name not in there]:
                found = ", ".join(there)[:200] or "none"
                raise DataError(f"{path}: has no column {' and '.join(absent)}; its columns: {found}{hint}")
            line = rows.line_num
            for row in rows:
                if rows.line_num - line > MOST_LINES:
                    raise csv.Error(f"a row of {rows.line_num - line} lines begins here; is a quote not closed?")
                yield rows.line_num, {name: row[name] or "" for name in columns}
                line = rows.line_num
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {_place(path, line)}: {_no_utf8(error)}") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {line + 1}: cannot be read: {error}") from None


def _place(path: Path, line: int) -> str:
    """The line that is no UTF-8: the reader is some thousand letters ahead of the rows."""
    with path.open("rb") as stream:
        for number, content in enumerate(stream, start=1):
            try:
                content.decode()
            except UnicodeDecodeError:
                return f"line {number}"
    return f"near line {line}"


def _no_utf8(error: UnicodeDecodeError) -> str:
    return f"is no UTF-8 text ({error.reason}); convert the file, for example: iconv -f latin1 -t utf-8 OLD > NEW"
