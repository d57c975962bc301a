"""Decoded files, by their content: one that comes again, as in each request of a stateless server, is decoded once."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatbridge.processors.limits import MB
from chatbridge.serve.caches.bounded_cache import BoundedCache, CacheCounts
from chatbridge.serve.uploads.upload_parts import Attachment, DecodedMedia

Key = tuple[bytes, str, str | None, bool]  # digest of the file, its endings, what it is read as, whether for a user
Identity = tuple[int, int, int]  # of a file: number, size, time of its last change
SMALL = 1000  # bytes of an attachment beside its tensors


class KeptUploads:
    """Attachments and decoded media, of at most so many bytes together. Any number of threads may use it."""

    def __init__(self, max_mb: float, max_file_mb: float) -> None:
        """
        max_mb       limit in MB; 0: nothing is kept
        max_file_mb  larger files, which are refused anyway, are not looked up
        """
        self._held: BoundedCache[Key, Attachment | DecodedMedia] = BoundedCache(max_mb, _num_bytes)
        self._is_on, self._most = max_mb > 0, max_file_mb * MB

    def attachment(self, path: Path, modality: str | None, read: Callable[[], Attachment]) -> Attachment:
        """What `read` gives for a file, or has given for one with the same content."""
        found = self._found(path, modality, True, read)
        if found.path == path:
            return found
        return replace(found, path=path, note=found.note.replace(found.path.name, path.name))

    def media(self, modality: str, ref: str | Path | bytes, read: Callable[[], DecodedMedia]) -> DecodedMedia:
        """What `read` gives for a file, or has given for one with the same content."""
        return self._found(ref, modality, False, read)

    def forget(self) -> None:
        """Free the memory."""
        self._held.forget()

    def counts(self) -> CacheCounts:
        """What it holds now, and how many files were found there."""
        return self._held.counts()

    def _found(self, ref: str | Path | bytes, modality: str | None, is_upload: bool, read: Callable[[], Any]) -> Any:
        before = self._identity(ref) if self._is_on else None
        if before is None:
            return read()
        key = (_digest(ref), _endings(ref), modality, is_upload)
        if (known := self._held.get(key)) is not None:
            return known
        made = read()
        if self._identity(ref) == before:  # else it may have been read after it has changed
            self._held.put(key, made)
        return made

    def _identity(self, ref: str | Path | bytes) -> Identity | None:
        """None for what cannot be looked up: no regular file, or one beyond the limit."""
        if isinstance(ref, bytes):
            return (0, len(ref), 0) if len(ref) <= self._most else None
        with suppress(OSError, ValueError):
            found = os.stat(ref)
            if stat.S_ISREG(found.st_mode) and found.st_size <= self._most:
                return found.st_ino, found.st_size, found.st_mtime_ns
        return None


def _digest(ref: str | Path | bytes) -> bytes:
    if isinstance(ref, bytes):
        return hashlib.blake2b(ref, digest_size=20).digest()
    with open(ref, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).digest()


def _endings(ref: str | Path | bytes) -> str:
    return "" if isinstance(ref, bytes) else "".join(Path(ref).suffixes[-2:]).lower()


def _num_bytes(kept: Attachment | DecodedMedia) -> int:
    media = [item.ref for item in kept.media] if isinstance(kept, Attachment) else [kept]
    return SMALL + sum(one.tensor.nbytes for one in media if isinstance(one, DecodedMedia))


__all__ = ["KeptUploads"]
