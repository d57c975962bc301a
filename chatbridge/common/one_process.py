"""One process at a time writes an output that a command continues, such as a file of answers; a second is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from chatbridge.common.errors import DataError


@contextmanager
def only_process(lock: Path, what: str) -> Iterator[None]:
    """Within the block this is the only process that holds `lock`, a hidden file that is removed at the end.

    The end of the process, even a kill, releases it: workers do not inherit it. On a file system without locks, and on
    Windows, nobody is refused. Threads of one process are not kept apart.

    what     is in use, for the message: "runs/a.jsonl"
    raises   DataError when another process has it, OSError when the file cannot be opened
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _opened(lock, what):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # before the lock is released


def _opened(lock: Path, what: str) -> IO[bytes]:
    """The locked file; closing it releases the lock."""
    while True:
        file = lock.open("ab")
        if not take_lock(file):
            file.close()
            raise DataError(f"{what}: another process writes it; wait for its end, or choose another place")
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # the other process ended, and removed it, while this one opened it


def take_lock(file: IO[bytes]) -> bool:
    """Lock a file until it is closed or this process ends. False: another process has the lock.

    A lock of `lockf` is not inherited, so workers that outlive a killed process do not keep it.
    """
    try:
        import fcntl
    except ImportError:  # not available on Windows
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True


__all__ = ["only_process", "take_lock"]
