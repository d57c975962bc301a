"""Locks between processes that the kernel drops when a process ends, however it ends."""

from __future__ import annotations

import os
from pathlib import Path

from chatbridge.datasets.tars.index import TarIndex


class HeldShard:
    """The right to read a cached shard; until `release`, nobody removes it."""

    def __init__(self, index: TarIndex, lock: int):
        self.index, self._lock = index, lock

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __del__(self) -> None:
        self.release()


def open_lock(file: Path) -> int:
    """A descriptor of a lock file; closing it gives the lock back."""
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def lock_file(lock: int, alone: bool, wait: bool) -> bool:
    """Alone or together with others. False: somebody else has it, and we do not wait."""
    import fcntl  # Windows has none

    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    try:
        fcntl.flock(lock, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
