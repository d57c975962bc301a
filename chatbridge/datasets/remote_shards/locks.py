"""Shared and exclusive locks between processes; the kernel releases them when a process ends, however it ends.

Own code, not filelock: its locks are exclusive only, and a shard is read by several processes at once.
"""

from __future__ import annotations

import os
from pathlib import Path

from chatbridge.datasets.tars.index import TarIndex


class HeldShard:
    """A shard of the cache that is in use: it is not removed before `release`."""

    def __init__(self, index: TarIndex, lock: int):
        self.index, self._lock = index, lock

    def release(self) -> None:
        """Allow the removal of the shard again."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __del__(self) -> None:
        self.release()


def open_lock(file: Path) -> int:
    """A descriptor of a lock file; closing it releases the lock."""
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def lock_file(lock: int, exclusive: bool, wait: bool) -> bool:
    """Lock exclusively, or shared with others. False: another process has the lock, and `wait` is False."""
    import fcntl  # Windows has none

    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(lock, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
