"""What each loader worker is reading, noted where the main process sees it even after the worker has died."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import get_worker_info

from chatbridge.datasets.time_limit import time_limit

SLOT = struct.Struct("<qqqd")  # is it reading, number of the source, index of the sample, since when
PAUSED = float("inf")  # "since" while the clock stands still


class Note(NamedTuple):
    """A worker reads sample `index` of source number `source`; `since` is on the monotonic clock, in seconds."""

    source: int
    index: int
    since: float


class Notes:
    """A small file with one slot per worker. Every process maps it; a slot has one writer."""

    def __init__(self, num_workers: int):
        handle, name = tempfile.mkstemp(prefix="chatbridge-workers-")
        os.ftruncate(handle, max(1, num_workers) * SLOT.size)
        os.close(handle)
        self.path = Path(name)
        self._map: mmap.mmap | None = None

    def write(self, worker: int, note: Note | None) -> None:
        fields = (0, 0, 0, 0.0) if note is None else (1, *note)
        SLOT.pack_into(self._mapped(), worker * SLOT.size, *fields)

    def read(self, worker: int) -> Note | None:
        is_reading, source, index, since = SLOT.unpack_from(self._mapped(), worker * SLOT.size)
        return Note(source, index, since) if is_reading else None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            with self.path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), 0)
        return self._map

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_map": None}


@dataclass
class Watch:
    """Limits the time of one reading and, in a loader worker, notes what is read.

    notes    None: nothing is noted. In the main process (num_workers 0) nothing is noted either: there is nobody to
             see it, and code that never returns is not ended
    """

    limit_s: float
    notes: Notes | None = None

    @contextmanager
    def reading(self, source: int, index: int) -> Iterator[None]:
        """raises MediaError when the limit is exceeded"""
        worker = get_worker_info()
        if self.notes is None or worker is None:
            with time_limit(self.limit_s):
                yield
            return
        notes, note = self.notes, Note(source, index, time.monotonic())
        paused: list[float] = []

        def on_pause(is_paused: bool) -> None:
            paused.append(time.monotonic())
            lost = sum(stop - start for start, stop in zip(paused[::2], paused[1::2]))
            notes.write(worker.id, note._replace(since=PAUSED if is_paused else note.since + lost))

        notes.write(worker.id, note)
        try:
            with time_limit(self.limit_s, on_pause):
                yield
        finally:
            notes.write(worker.id, None)
