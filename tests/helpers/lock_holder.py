"""Another process that holds the lock of an output."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOLD = (
    "import fcntl, sys; file = open(sys.argv[1], 'ab'); fcntl.lockf(file, fcntl.LOCK_EX)\n"
    "print('on', flush=True); input()"
)


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Within the block another process holds the lock; it is killed at the end, as the kernel kills one."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-S", "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "on\n"
            yield
        finally:
            other.kill()
