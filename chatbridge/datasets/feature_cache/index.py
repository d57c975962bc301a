"""The index of a set: all committed shards, sorted by key in fixed-size columns, and mapped instead of read.

A lookup touches a few pages of the file. Worker processes share these pages, so an index of ten million entries
(280 MB) costs a worker nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chatbridge.datasets.feature_cache.container import read_container, write_container
from chatbridge.datasets.feature_cache.shards import KnownFile, ShardKeys, committed

INDEX = "index"


class Entry(NamedTuple):
    """Where the row of a piece is: number of the shard in the index, number of the row, CRC-32 of the row."""

    shard: int
    row: int
    checksum: int


class FeatureIndex:
    """The entries of a set by key. raises DataError when the file is missing or damaged

    is_checked   compare the checksums of all columns; workers leave that to the main process
    """

    def __init__(self, folder: Path, is_checked: bool = True) -> None:
        self.folder = folder
        self.head, columns = read_container(folder / INDEX, is_checked)
        self._columns = {name: np.asarray(column) for name, column in columns.items()}
        self.failed = {bytes.fromhex(key): (kind, reason) for key, kind, reason in self.head["failed"]}

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self._columns["high"])

    @property
    def shards(self) -> list[tuple[str, int]]:
        """Name and number of rows of each shard."""
        return self.head["shards"]

    def find(self, key: bytes) -> Entry | None:
        """The entry of a key, or None."""
        at = _position(key, self._columns["high"], self._columns["low"])
        return None if at is None else Entry(*(int(self._columns[name][at]) for name in ("shard", "row", "sums")))

    def content(self, path: bytes, state: bytes | None) -> bytes | None:
        """The hash of the content of a file, by the hash of its path; None when its state is another one now."""
        at = _position(path, self._columns["file_path_high"], self._columns["file_path_low"])
        if at is None or state is None or self._pair("state", at) != state:
            return None
        return self._pair("content", at)

    def _pair(self, part: str, at: int) -> bytes:
        return struct.pack(">QQ", *(int(self._columns[f"file_{part}_{half}"][at]) for half in ("high", "low")))


def write_index(folder: Path) -> None:
    """Merge the keys of all committed shards; the index is replaced as a whole.

    Only the owner of the cache's lock may call it. raises DataError for damaged keys, OSError that names the file
    """
    shards = list(committed(folder))
    failed = {key: (key, kind, reason) for shard in shards for key, kind, reason in shard.head["failed"]}
    head = {"shards": [(shard.name, shard.num_rows) for shard in shards], "failed": list(failed.values()),
            "error": _error(shards)}  # fmt: skip
    number = [np.full(shard.num_rows, at, "<u4") for at, shard in enumerate(shards)]
    row = [np.arange(shard.num_rows, dtype="<u4") for shard in shards]
    entries = {**{name: _joined([shard.arrays[name] for shard in shards]) for name in ("high", "low", "sums")},
               "shard": _joined(number), "row": _joined(row)}  # fmt: skip
    names = [f"file_{part}_{half}" for part in KnownFile._fields for half in ("high", "low")]
    files = {name: _joined([shard.arrays[name] for shard in shards]) for name in names}
    columns = _sorted(entries, "high", "low", newest=False) | _sorted(files, "file_path_high", "file_path_low")
    write_container(folder / INDEX, head, columns)


def _sorted(columns: Mapping[str, np.ndarray], high: str, low: str, newest: bool = True) -> dict[str, np.ndarray]:
    """Columns in the order of their keys; of equal keys the newest (last written) or the first one."""
    size = len(columns[high])
    age = np.arange(size)
    order = np.lexsort((-age if newest else age, columns[low], columns[high]))
    keys = np.stack([columns[high][order], columns[low][order]])
    is_first = np.ones(size, bool)
    is_first[1:] = (keys[:, 1:] != keys[:, :-1]).any(0)
    return {name: column[order[is_first]] for name, column in columns.items()}


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, "<u8")


def _position(key: bytes, high: np.ndarray, low: np.ndarray) -> int | None:
    first, second = struct.unpack(">QQ", key)
    at = int(np.searchsorted(high, np.uint64(first)))
    while at < len(high) and high[at] == first:
        if low[at] == second:
            return at
        at += 1
    return None


def _error(shards: list[ShardKeys]) -> dict[str, Any]:
    """The measured error of all shards together: sums of squares are added, the largest one is kept."""
    measured = [shard.head["error"] for shard in shards if "error" in shard.head]
    squared, total = (sum(one[name] for one in measured) for name in ("squared", "total"))
    return {"squared": squared, "total": total, "largest": max((one["largest"] for one in measured), default=0.0)}
