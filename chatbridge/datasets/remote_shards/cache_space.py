"""The bounded size of the cache folder: space is reserved before a download, and shards not in use are removed."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.datasets.remote_shards.locks import lock_file, open_lock
from chatbridge.datasets.tars.index import index_ending

logger = logging.getLogger(__name__)

GB = 1_000_000_000


class CacheFull(DataError):
    """The disk of the cache folder is full, or the folder cannot be used."""


@dataclass(frozen=True)
class CacheSpace:
    """The space of a cache folder.

    max_bytes   size of all shards together; exceeded only by shards in use
    """

    folder: Path
    max_bytes: float

    def reserve(self, place: Path, num_bytes: int | None, lock: int, is_needed: bool) -> bool:
        """Make space for a shard, one process at a time; its lock file holds the bytes, for others to count.

        num_bytes   size of the shard; None: unknown
        is_needed   a sample of the shard is read now. Otherwise shards in use are not exceeded: False without space
        raises      CacheFull when the disk is full
        """
        room = open_lock(self.folder / "room.lock")
        try:
            lock_file(room, True, wait=True)
            needed = num_bytes or self._usual_bytes()
            if not self._make_room(needed, place, is_needed):
                return False
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(needed).encode(), 0)
            return True
        finally:
            os.close(room)

    def _make_room(self, needed: int, place: Path, is_needed: bool) -> bool:
        """Remove the least recently used shards that are not in use until `needed` more bytes are allowed.

        raises   CacheFull when the disk has less free space than that
        """
        kept = sorted(one for one in self._kept() if one[2] != place)
        used = sum(size for _, size, _ in kept)
        for _, size, other in kept:
            is_tight = used + needed > self.max_bytes or shutil.disk_usage(self.folder).free < needed
            if not is_tight:
                break
            if remove(other):
                used -= size
        if shutil.disk_usage(self.folder).free < needed:
            if is_needed:
                raise self.full(place.name)
            return False
        if used + needed > self.max_bytes and is_needed:
            logger.warning(
                "the shards in use take %.1f GB of the cache folder %s, more than cache_gb allows (%g)",
                (used + needed) / GB, self.folder, self.max_bytes / GB,
            )  # fmt: skip
        return is_needed or used + needed <= self.max_bytes

    def _kept(self) -> Iterator[tuple[float, int, Path]]:
        """Time of last use, bytes and path of every shard in the cache, complete or partial."""
        for lock in self.folder.glob("*/*.lock"):
            place, state = lock.with_name(lock.name.removesuffix(".lock")), lock.stat()
            size = sum(_bytes(place.with_name(f"{place.name}{end}")) for end in ("", ".part", index_ending()))
            reserved = lock.read_text() if state.st_size else ""
            room = int(reserved) if reserved.isdecimal() else 0  # another process may be writing it
            if size or room:
                yield state.st_mtime, max(size, room), place

    def _usual_bytes(self) -> int:
        """An estimate for a shard of unknown size: the largest in the cache."""
        return max((size for _, size, _ in self._kept()), default=0)

    def remove_oldest(self, place: Path) -> bool:
        """Remove the least recently used shard that is not in use and not `place`; False if there is none."""
        return any(remove(other) for _, _, other in sorted(self._kept()) if other != place)

    def full(self, name: str) -> CacheFull:
        """The error for a shard of this name that does not fit on the disk."""
        free = shutil.disk_usage(self.folder).free / GB
        return CacheFull(
            f"the disk of the cache folder {self.folder} is full ({free:.1f} GB free) and {name} does not fit; free "
            f"disk space, choose another cache_folder, or lower window_shards or cache_gb (now {self.max_bytes / GB:g})"
        )


def remove(place: Path) -> bool:
    """Remove a shard unless it is in use or being downloaded. The lock file stays, as others may wait for it."""
    lock = open_lock(lock_of(place))
    try:
        if not lock_file(lock, True, wait=False):
            return False
        for end in ("", ".part", ".part.tag"):
            place.with_name(f"{place.name}{end}").unlink(missing_ok=True)
        for index in place.parent.glob(f"{escape(place.name)}*.index"):
            index.unlink(missing_ok=True)
        os.ftruncate(lock, 0)
        return True
    finally:
        os.close(lock)


def lock_of(place: Path) -> Path:
    """The lock file of a shard."""
    return place.with_name(f"{place.name}.lock")


def _bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
