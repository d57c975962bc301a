"""Output files of JSON lines that several processes append to at once, such as the chunks of one command.

Every change happens under the lock of the file. A line that a killed process left incomplete is skipped by readers and
removed by the next `rewrite`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import append_lines, file_lock, read_json_lines, replace_text

Row = dict[str, Any]
NOT_OURS = "choose another --out, or start again with --overwrite"


class JsonLinesFile:
    """A file of JSON objects.

    fields   that every line has; a line without one belongs to another program
    """

    def __init__(self, path: Path, fields: Sequence[str]) -> None:
        self.path = path
        self.fields = tuple(fields)

    def rows(self, skip_others: bool = False) -> list[Row]:
        """The complete lines; none if there is no file.

        skip_others   leave out lines of another program, for a file that is replaced on demand
        raises        DataError for such lines otherwise
        """
        try:
            lines = read_json_lines(self.path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}; choose another --out") from None
        if skip_others:
            return [row for row in lines.records if all(name in row for name in self.fields)]
        for number, row in enumerate(lines.records, start=1):
            if missing := [name for name in self.fields if name not in row]:
                raise DataError(f"{self.path}: record {number} has no {', '.join(map(repr, missing))}; {NOT_OURS}")
        if lines.torn and not self._begin_as_objects(lines.torn):
            raise DataError(f"{self.path}: line {lines.torn[0]} is not a JSON object; {NOT_OURS}")
        return list(lines.records)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a line, complete or not at all for every reader. raises OSError that names the file"""
        with file_lock(self.path):
            append_lines(self.path, [text_of(row)])

    def rewrite(
        self, change: Callable[[list[Row]], Iterable[Mapping[str, Any]]], skip_others: bool = False
    ) -> list[Row]:
        """Replace the lines by `change(lines)`; lines of other processes come before or after, never between.

        skip_others   see `rows`
        returns       the new lines
        """
        with file_lock(self.path):
            rows = [dict(row) for row in change(self.rows(skip_others))]
            replace_text(self.path, "".join(f"{text_of(row)}\n" for row in rows))
        return rows

    def _begin_as_objects(self, numbers: Sequence[int]) -> bool:
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        return all(lines[number - 1].startswith("{") for number in numbers if number <= len(lines))


def text_of(row: Mapping[str, Any]) -> str:
    """A line of the file."""
    return json.dumps(row, ensure_ascii=False)


def without_repeats(rows: Iterable[Row], order: Mapping[str, int], name: str = "question_id") -> list[Row]:
    """The first row of every id, sorted by `order`; ids are compared as text."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(str(row[name]), row)
    return sorted(first.values(), key=lambda row: order.get(str(row[name]), len(order)))
