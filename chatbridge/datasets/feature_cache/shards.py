"""Shards: rows of features written by one process, which exist once their keys do."""

from __future__ import annotations

import os
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import errors_name_file
from chatbridge.datasets.feature_cache.container import PART, read_container, sync_folder, write_container

ROWS, KEYS = ".rows", ".keys"
SHARD_BYTES = 1 << 28  # of a shard; a kill costs what is not committed yet
SHARD_SECONDS = 60.0  # a shard is committed after so long, however small
WORD = np.dtype("<u8")


class Failed(NamedTuple):
    """Media that cannot be encoded: the key of its first piece, NoAudio or MediaError, and the reason."""

    key: bytes
    kind: str
    reason: str


class KnownFile(NamedTuple):
    """A file at the time of the build: hashes of its path, of its state and of its content."""

    path: bytes
    state: bytes
    content: bytes


@dataclass
class ShardWriter:
    """Writes shards into the folder of a set, each of at most about `shard_bytes`. One process has it.

    raises   OSError that names the file, when the disk is full or the folder may not be written
    """

    folder: Path
    row_bytes: int
    shard_bytes: int = SHARD_BYTES
    seconds: float = SHARD_SECONDS
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON values for the head of the next shards
    _keys: list[bytes] = field(default_factory=list)
    _sums: list[int] = field(default_factory=list)
    _files: list[KnownFile] = field(default_factory=list)
    _failed: list[Failed] = field(default_factory=list)
    _name: str = ""
    _file: Any = None
    _since: float = field(default_factory=time.monotonic)

    def add(self, keys: Iterable[bytes], rows: np.ndarray) -> None:
        """Append rows uint8[M, row_bytes] with their keys; they exist after the next commit."""
        if self._file is None:
            self._name = uuid.uuid4().hex[:16]
            self._file = (self.folder / f"{self._name}{PART}").open("wb")
        for key, row in zip(keys, rows, strict=True):
            with errors_name_file(self.folder / self._name):
                self._file.write(row.data)
            self._keys.append(key)
            self._sums.append(zlib.crc32(row.data))

    def add_file(self, known: KnownFile) -> None:
        """Remember the state of a file."""
        self._files.append(known)

    def add_failed(self, failed: Failed) -> None:
        """Remember media that cannot be encoded."""
        self._failed.append(failed)

    def commit_if_due(self) -> bool:
        """Commit a shard that is large or old enough; returns whether it did."""
        is_due = len(self._keys) * self.row_bytes >= self.shard_bytes or time.monotonic() - self._since > self.seconds
        if is_due:
            self.commit()
        return is_due

    def commit(self) -> None:
        """Make everything added so far exist: rows first, synchronised to the disk, then their keys."""
        self._since = time.monotonic()
        if not (self._keys or self._files or self._failed):
            return
        name = self._name or uuid.uuid4().hex[:16]
        if self._file is not None:
            part = self.folder / f"{name}{PART}"
            with errors_name_file(part):
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
            os.replace(part, self.folder / f"{name}{ROWS}")
            sync_folder(self.folder)
        high, low = words(self._keys)
        files = {}
        for part in KnownFile._fields:
            halves = words(getattr(one, part) for one in self._files)
            files |= {f"file_{part}_high": halves[0], f"file_{part}_low": halves[1]}
        head = {"row_bytes": self.row_bytes, "written_ns": time.time_ns(), **self.facts,
                "failed": [(one.key.hex(), one.kind, one.reason) for one in self._failed]}  # fmt: skip
        arrays = {"high": high, "low": low, "sums": np.array(self._sums, "<u4"), **files}
        write_container(self.folder / f"{name}{KEYS}", head, arrays)
        self._keys, self._sums, self._files, self._failed, self._file, self._name = [], [], [], [], None, ""

    def discard(self) -> None:
        """Remove what is not committed, after an error."""
        if self._file is not None:
            self._file.close()
            with suppress(OSError):
                (self.folder / f"{self._name}{PART}").unlink()


@dataclass(frozen=True)
class ShardKeys:
    """The keys of a committed shard."""

    name: str
    head: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def num_rows(self) -> int:
        return len(self.arrays["high"])


def committed(folder: Path) -> Iterator[ShardKeys]:
    """The shards of a set in the order in which they were written. raises DataError for damaged keys"""
    found = []
    for path in sorted(folder.glob(f"*{KEYS}")):
        head, arrays = read_container(path)
        found.append(ShardKeys(path.stem, head, arrays))
    yield from sorted(found, key=lambda one: (one.head["written_ns"], one.name))


def damage(folder: Path, name: str, num_rows: int, row_bytes: int) -> str | None:
    """What is wrong with the rows of a shard, as its size shows; None when it is whole."""
    path, wanted = folder / f"{name}{ROWS}", num_rows * row_bytes
    if not num_rows:
        return None
    try:
        size = path.stat().st_size
    except OSError:
        return f"{path}: is missing ({num_rows:,} rows)"
    return None if size == wanted else f"{path}: has {size:,} bytes, expected {wanted:,}"


def clean(folder: Path) -> list[str]:
    """Remove what an interrupted build left, and shards that are damaged; a line for each damaged one.

    Only the owner of the cache's lock may call it.
    """
    lines = []
    for path in folder.glob(f"*{PART}"):
        path.unlink(missing_ok=True)
    for path in sorted(folder.glob(f"*{KEYS}")):
        try:
            head, arrays = read_container(path)
            reason = damage(folder, path.stem, len(arrays["high"]), head["row_bytes"])
        except DataError as error:
            reason = str(error)
        if reason is not None:
            lines.append(reason)
            path.unlink(missing_ok=True)
    for path in folder.glob(f"*{ROWS}"):
        if not path.with_suffix(KEYS).exists():
            path.unlink(missing_ok=True)
    return lines


def verify_rows(folder: Path, shard: ShardKeys) -> str | None:
    """Compare every row of a shard with its checksum; the first difference in words, or None."""
    row_bytes = shard.head["row_bytes"]
    if (reason := damage(folder, shard.name, shard.num_rows, row_bytes)) is not None or not shard.num_rows:
        return reason
    path = folder / f"{shard.name}{ROWS}"
    with path.open("rb") as file:
        for number, wanted in enumerate(shard.arrays["sums"].tolist()):
            if zlib.crc32(file.read(row_bytes)) != wanted:
                return f"{path}: row {number} does not have its checksum"
    return None


def words(keys: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """16-byte keys -> their two halves as numbers, uint64[n] each: numpy searches those without copies"""
    flat = np.frombuffer(b"".join(keys), ">u8").reshape(-1, 2).astype(WORD)
    return np.ascontiguousarray(flat[:, 0]), np.ascontiguousarray(flat[:, 1])
