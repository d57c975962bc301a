"""Bytes of large files by position, for forked and spawned workers alike."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any


class OpenFiles:
    """Files that are opened on their first read, in the process that reads; the least recently used are closed.

    All reads are positioned, so a descriptor that a fork shares is harmless; pickling drops the descriptors.
    """

    def __init__(self, max_open: int = 64):
        self._max_open = max_open
        self._open: OrderedDict[Path, int] = OrderedDict()

    def read(self, path: Path, at: int, size: int) -> bytes:
        """Up to `size` bytes from byte `at`; fewer at the end of the file. raises OSError"""
        handle = self._handle(path)
        whole = os.pread(handle, size, at)
        if len(whole) == size or not whole:
            return whole
        parts, at, size = [whole], at + len(whole), size - len(whole)
        while size > 0 and (part := os.pread(handle, size, at)):
            parts.append(part)
            at, size = at + len(part), size - len(part)
        return b"".join(parts)

    def forget(self, path: Path) -> None:
        """Close a file that may be removed; while it is open, its space on the disk is not freed."""
        handle = self._open.pop(path, None)
        if handle is not None:
            os.close(handle)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def _handle(self, path: Path) -> int:
        handle = self._open.get(path)
        if handle is not None:
            self._open.move_to_end(path)
            return handle
        while len(self._open) >= self._max_open:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._open[path]

    def __getstate__(self) -> dict[str, Any]:
        return {"_max_open": self._max_open}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**{name.lstrip("_"): value for name, value in state.items()})

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()
