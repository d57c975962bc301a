"""Files of records: a JSON list, or a JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError, some
from chatbridge.common.file_kind import refuse_other_kind
from chatbridge.common.safe_files import replace_text

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Every record of a file, whatever its ending says.

    raises   DataError for a file that is neither a list of objects nor an object per line, or has no record
    """
    refuse_other_kind(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    records = _list(path, text) if text.lstrip().startswith("[") else _lines(path, text)
    strange = [str(number) for number, record in enumerate(records) if not isinstance(record, dict)]
    if strange:
        raise DataError(f"{path}: expected objects; record {some(strange)} is something else")
    if not records:
        raise DataError(f"{path}: has no records")
    return records


def _list(path: Path, text: str) -> list[Any]:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON: {error}") from None


def _lines(path: Path, text: str) -> list[Any]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: is not valid JSON: {error}; repeat the command that writes the file, or "
                    "remove the line"
                ) from None
    return records


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write an object per line atomically; returns the path."""
    replace_text(path, "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records))
    return path
