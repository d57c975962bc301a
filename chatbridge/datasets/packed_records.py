"""Records of an annotation file, packed: read once with every fault named by its place, then decoded one at a time.

A list of a million dictionaries costs gigabytes, and forked workers copy it page by page as they touch the reference
counts. Packed records are one block of bytes and one array of offsets.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError
from chatbridge.common.text_repair import repaired_value

ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
MOST_SHOWN = 5  # faults in one message
ZERO = b"\\u0000"  # how json.dumps writes it
logger = logging.getLogger(__name__)


class Packed:
    """JSON values by index, about as large as their file. `note` reports how many were repaired."""

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


def pack(path: Path, records: Iterable[tuple[str, Any, str | None]]) -> Packed:
    """Pack records, given as (place in the file, JSON value, what is wrong with it or None).

    raises   DataError with the first five faults and their number
    """
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
                content, is_repaired = _encoded(value)
                if is_repaired:
                    repairs.append(place)
                yield content

    packed = Packed(texts())
    if faults:
        records_ = "1 record" if count == 1 else f"{count} records"
        rest = [f"... and {count - MOST_SHOWN} more"] if count > MOST_SHOWN else []
        raise DataError("\n    ".join([f"{path}: {records_} cannot be used", *faults, *rest]))
    if repairs:
        what = "1 record held" if len(repairs) == 1 else f"{len(repairs):,} records held"
        packed.note = f"{what} half an emoji or a zero character, replaced by U+FFFD (the first: {repairs[0]})"
        logger.info("%s: %s", path, packed.note)
    return packed


def _encoded(value: Any) -> tuple[bytes, bool]:
    """JSON in UTF-8, and whether text in the value was repaired."""
    try:
        text = ENCODER.encode(value)
    except ValueError:  # NaN or Infinity, which JSON does not have, would reach the files of results
        value = _finite(value)
        text = ENCODER.encode(value)
    try:
        content = text.encode()
    except UnicodeEncodeError:  # half of a pair such as "\\ud83d": neither UTF-8 nor any tokenizer accepts it
        content = None
    if content is not None and ZERO not in content:
        return content, False
    plain = json.loads(json.dumps(value))  # lists in place of tuples
    repaired = repaired_value(plain)
    return (content, False) if content is not None and repaired == plain else (ENCODER.encode(repaired).encode(), True)


def _finite(value: Any) -> Any:
    """The same with null for every number that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
