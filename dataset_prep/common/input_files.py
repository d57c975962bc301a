"""Reading inputs: the files below a folder, and the rows of a csv."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.common.file_kind import refuse_other_kind
from chatbridge.common.file_names import is_hidden

MOST_LINES = 20  # of one row: a text may have line breaks; after an unclosed quote a row takes the rest of the file


def files_below(folder: Path) -> Iterator[Path]:
    """Relative paths of all files below the folder that are not hidden, in no order.

    Links to folders are followed, because train2014 and val2014 are often linked into one folder, except for a link to
    a folder above it, which would not end.
    """
    for current, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(current)
        if any(os.path.realpath(above) == real for above in Path(current).absolute().parents):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not is_hidden(name)]
        inside = Path(current).relative_to(folder)
        yield from (inside / name for name in names if not is_hidden(name))


def rows_of(
    path: Path, columns: Collection[str], hint: str = "", most_lines: int = MOST_LINES
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, column -> text) of every row; a missing value of a short row is "".

    hint     next step when a column is missing
    most_lines   of one row
    raises   DataError with the line for a missing column, invalid UTF-8, or an unclosed quote
    """
    line = 1
    refuse_other_kind(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            present = rows.fieldnames or ()
            if absent := [name for name in columns if name not in present]:
                found = ", ".join(present)[:200] or "none"
                raise DataError(f"{path}: has no column {' and '.join(absent)}; its columns: {found}{hint}")
            line = rows.line_num
            for row in rows:
                if rows.line_num - line > most_lines:
                    raise csv.Error(
                        f"a row of {rows.line_num - line} lines begins here; check for a missing closing quote"
                    )
                yield rows.line_num, {name: row[name] or "" for name in columns}
                line = rows.line_num
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {_line_of_fault(path, line)}: {_not_utf8(error)}") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {line + 1}: cannot be read: {error}") from None


def _line_of_fault(path: Path, line: int) -> str:
    """The line with invalid UTF-8; the decoder reads some thousand characters ahead of the rows."""
    with path.open("rb") as stream:
        for number, content in enumerate(stream, start=1):
            try:
                content.decode()
            except UnicodeDecodeError:
                return f"line {number}"
    return f"near line {line}"


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"is not UTF-8 text ({error.reason}); convert the file, for example: iconv -f latin1 -t utf-8 OLD > NEW"
