"""The sample that each loader worker reads, in shared memory that outlives the worker and is never read torn."""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import get_worker_info

from chatbridge.datasets.workers.time_limit import time_limit

FIELDS = struct.Struct("<qqqq")  # number of the write, state, number of the source, index of the sample
DIGEST_BYTES = 8
CELL_BYTES = FIELDS.size + DIGEST_BYTES
SLOT_BYTES = 128  # two cells of one worker; slots do not share a cache line
IDLE, READING, PAUSED = range(3)
MOST_TRIES = 1000  # both cells of a slot are incomplete only while the writer overtakes the reader

_worker_number: int | None = None  # of this process, unless torch's DataLoader started it


class ProgressNote(NamedTuple):
    """A worker reads sample `index` of source number `source`.

    number     of the write, per worker: the same sample read again has a different one
    is_paused  the time limit is paused, for example during a download
    """

    source: int
    index: int
    number: int
    is_paused: bool = False


class ProgressNotes:
    """A small file with one slot per worker. Every process maps it; a slot has one writer.

    A slot has two cells, written in turn, so one of them is always complete. A cell holds the number of its write and a
    digest over its content. A reader copies a cell and recomputes the digest of the copy, so it detects any mixture of
    two writes, in whatever order the CPU made the bytes visible. The valid cell with the higher number is the note. If
    a writer is killed during a write, the previous note remains.

    raises  OSError when the temporary folder has no space for the file
    """

    def __init__(self, num_workers: int):
        handle, name = tempfile.mkstemp(prefix="chatbridge-workers-")
        self.path = Path(name)
        self._numbers: dict[int, int] = {}  # worker -> number of its last write
        first = _cell(0, IDLE, 0, 0).ljust(SLOT_BYTES, b"\0")
        try:  # written, not only sized: on a full disk, a store to a hole of a mapped file raises SIGBUS
            with os.fdopen(handle, "wb") as file:
                file.write(first * max(1, num_workers))
            self._map: mmap.mmap | None = None
            self._mapped()
        except BaseException:
            self.remove()
            raise

    def reading(self, worker: int, source: int, index: int, is_paused: bool = False) -> None:
        """Set the sample that `worker` reads now. Call it in one thread of one process per worker."""
        self._write(worker, PAUSED if is_paused else READING, source, index)

    def idle(self, worker: int) -> None:
        """Set that `worker` reads no sample now."""
        self._write(worker, IDLE, 0, 0)

    def read(self, worker: int) -> ProgressNote | None:
        """The last complete note of a worker. None: it reads no sample, or its slot is unreadable."""
        found = self._newest(worker)
        if found is None or found[1] == IDLE:
            return None
        number, state, source, index = found
        return ProgressNote(source, index, number, state == PAUSED)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _write(self, worker: int, state: int, source: int, index: int) -> None:
        if worker not in self._numbers:
            newest = self._newest(worker)
            self._numbers[worker] = 0 if newest is None else newest[0]
        number = self._numbers[worker] + 1
        start = worker * SLOT_BYTES + (number % 2) * SLOT_BYTES // 2
        self._mapped()[start : start + CELL_BYTES] = _cell(number, state, source, index)
        self._numbers[worker] = number  # last: the alarm of a time limit may end this function at any line

    def _newest(self, worker: int) -> tuple[int, int, int, int] | None:
        shared = self._mapped()
        for _ in range(MOST_TRIES):
            start = worker * SLOT_BYTES
            slot = shared[start : start + SLOT_BYTES]  # one copy; both cells are checked on the copy
            whole = [cell for cell in map(_fields, (slot, slot[SLOT_BYTES // 2 :])) if cell is not None]
            if whole:
                return max(whole)
        return None

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            with self.path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), 0)
        return self._map

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_map": None, "_numbers": {}}


def _cell(number: int, state: int, source: int, index: int) -> bytes:
    fields = FIELDS.pack(number, state, source, index)
    return fields + _digest(fields)


def _fields(cell: bytes) -> tuple[int, int, int, int] | None:
    """The fields of a copied cell; None if it is a mixture of two writes or was never written."""
    fields, digest = cell[: FIELDS.size], cell[FIELDS.size : CELL_BYTES]
    return FIELDS.unpack(fields) if _digest(fields) == digest else None


def _digest(fields: bytes) -> bytes:
    return hashlib.blake2b(fields, digest_size=DIGEST_BYTES).digest()


class Stopwatch:
    """The time for which a worker has had one note: only time between two readings of the same note counts.

    Of a long gap between readings only `longest_gap_s` counts: the whole run may have been suspended (Ctrl-Z), or this
    process was late. No clock of the worker is used.
    """

    def __init__(self, longest_gap_s: float):
        self.longest_gap_s = longest_gap_s
        self.note: ProgressNote | None = None
        self.seen_s = 0.0
        self._last_time = 0.0

    def update(self, note: ProgressNote | None, now: float) -> float:
        """Seconds of this note until now: 0 for a new one, for none, and for a paused one."""
        if note is None or note.is_paused or note != self.note:
            self.note, self.seen_s = note, 0.0
        else:
            self.seen_s += min(now - self._last_time, self.longest_gap_s)
        self._last_time = now
        return self.seen_s


def become_worker(number: int) -> None:
    """Set the worker number of a process that torch's DataLoader did not start."""
    global _worker_number
    _worker_number = number


def worker_number() -> int | None:
    """The number of this loader worker; None in every other process."""
    info = get_worker_info()
    return _worker_number if info is None else info.id


@dataclass
class TimedReading:
    """Limits the time of reading one sample and, in a loader worker, writes its note.

    notes    None: no notes. The main process (num_workers 0) writes none either: no supervisor reads them, and code
             that never returns is not ended
    """

    limit_s: float
    notes: ProgressNotes | None = None

    @contextmanager
    def reading(self, source: int, index: int) -> Iterator[None]:
        """Read one sample inside this block. raises MediaError when the limit is exceeded"""
        notes, worker = self.notes, worker_number()
        if notes is None or worker is None:
            with time_limit(self.limit_s):
                yield
            return
        notes.reading(worker, source, index)
        try:
            with time_limit(self.limit_s, lambda is_paused: notes.reading(worker, source, index, is_paused)):
                yield
        finally:
            notes.idle(worker)
