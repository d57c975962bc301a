"""A folder of bounded size for remote shards, shared by all workers and processes of a machine.

Files per shard: `<name>`, its side index, `<name>.lock` (content: the bytes reserved during a download), `<name>.part`
until it is complete, and `<name>.failed` after a failure.
A download takes the lock exclusively, readers share it, so one process downloads, the others wait, and a shard in use
is never removed. The kernel releases the locks of a killed process; the next process resumes its partial download. If
space is needed, the shard that was opened longest ago is removed first.

Own code, not fsspec's filecache: that one has no bound on its size, starts an interrupted download again from the
beginning, and lets processes download the same file at once and remove a file in use.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.safe_files import replace_text
from chatbridge.datasets.remote_shards.addresses import RemoteShard, name_of, shown
from chatbridge.datasets.remote_shards.cache_space import CacheFull, CacheSpace, lock_of
from chatbridge.datasets.remote_shards.download import fetch
from chatbridge.datasets.remote_shards.locks import HeldShard, lock_file, open_lock
from chatbridge.datasets.remote_shards.open_stream import FetchError
from chatbridge.datasets.tars.index import TarIndex, find_index, open_index

logger = logging.getLogger(__name__)

MB = 1_000_000
RETRY_AFTER_S = 600.0  # until a failed download is tried again
FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class ShardCache:
    """Remote shards as local files.

    folder      of the cache; processes with the same folder share it
    max_bytes   size of all shards together; exceeded only by shards in use
    since       start of this run, in seconds since the epoch: earlier failures do not count
    """

    folder: Path
    max_bytes: float
    since: float

    @property
    def _space(self) -> CacheSpace:
        return CacheSpace(self.folder, self.max_bytes)

    def place(self, shard: RemoteShard) -> Path:
        """The local path of a shard."""
        end = shard.address.rpartition("/")[0] if name_of(shard.address) == shard.address.rpartition("/")[2] else None
        mark = hashlib.blake2b((end or shard.address).encode(errors="surrogatepass"), digest_size=8).hexdigest()
        return self.folder / mark / shard.name

    def has(self, shard: RemoteShard) -> bool:
        """Whether a shard is in the cache."""
        return self.place(shard).is_file()

    def index(self, shard: RemoteShard) -> TarIndex | None:
        """The index of a shard in the cache; None for a shard that is not."""
        return find_index(self.place(shard)) if self.has(shard) else None

    def hold(self, shard: RemoteShard, wait: bool = True) -> HeldShard | None:
        """A shard that stays in the cache until it is released; downloaded now if necessary.

        wait     False: for a download ahead of use. None if another process downloads the shard now, or there is no
                 space beside the shards in use
        raises   MediaError when it cannot be downloaded, CacheFull when the disk is full
        """
        try:
            return self._hold(shard, self.place(shard), wait)
        except OSError as error:
            raise CacheFull(
                f"the cache folder {self.folder} cannot be used: {error.strerror or error}; choose another cache_folder"
            ) from None

    def _hold(self, shard: RemoteShard, place: Path, wait: bool) -> HeldShard | None:
        place.parent.mkdir(parents=True, exist_ok=True)
        while True:
            lock = open_lock(lock_of(place))
            try:
                if not lock_file(lock, False, wait):
                    return None
                if place.is_file():
                    os.utime(lock)  # the time of its last use
                    hold, lock = HeldShard(_index(place), lock), -1
                    return hold
                self._fail_again(shard, place)
                # Not waiting: a faster process keeps the shared lock for as long as it reads the shard.
                is_ours = lock_file(lock, True, wait=False)
                if is_ours and not place.is_file():
                    self._fail_again(shard, place)
                    if not self._bring(shard, place, lock, wait):
                        return None
            finally:
                if lock >= 0:
                    os.close(lock)
            if not is_ours:
                if not wait:
                    return None
                time.sleep(random.uniform(0.001, 0.02))  # several processes try; one of them gets it

    def _bring(self, shard: RemoteShard, place: Path, lock: int, is_needed: bool) -> bool:
        """Download and index a shard whose lock this process has. False: no space, and the shard is not needed yet."""
        note = _failure_note(place)
        if not self._space.reserve(place, shard.bytes, lock, is_needed):
            return False
        try:
            begun = time.monotonic()
            self._fetch(shard, place)
            index, seconds = open_index(place), time.monotonic() - begun
        except CacheFull:
            raise
        except (FetchError, DataError) as error:
            place.unlink(missing_ok=True)
            reason = str(error).replace(str(place), shown(shard.address))
            replace_text(note, json.dumps({"reason": reason, "is_final": getattr(error, "is_final", True)}))
            logger.warning("%s; its samples are replaced", _unfetched(shard, reason))
            raise MediaError(_unfetched(shard, reason)) from None
        finally:
            os.ftruncate(lock, 0)
        note.unlink(missing_ok=True)
        size = place.stat().st_size
        logger.info("fetched %s: %d samples, %.1f MB in %.1f s", shown(shard.address), index.count, size / MB, seconds)
        if index.fault is not None:
            logger.warning("%s %s", shown(shard.address), index.fault)
        if index.left_out:
            logger.info("%s: %s", shown(shard.address), index.left())
        return True

    def _fetch(self, shard: RemoteShard, place: Path) -> None:
        """raises   FetchError; CacheFull when the disk is full and no shard of the cache can be removed"""
        part = place.with_name(f"{place.name}.part")
        while True:
            try:
                fetch(shard.address, part, shard.bytes, shard.sha256)
                os.replace(part, place)
                return
            except OSError as error:
                if error.errno not in FULL:
                    raise
                if not self._space.remove_oldest(place):
                    raise self._space.full(shard.name) from None

    def _fail_again(self, shard: RemoteShard, place: Path) -> None:
        """raises   MediaError when this download failed earlier in this run, recently or for a permanent reason"""
        try:
            note = _failure_note(place)
            noted_at, content = note.stat().st_mtime, json.loads(note.read_text())
        except (OSError, ValueError):
            return
        if noted_at >= self.since and (content["is_final"] or time.time() - noted_at < RETRY_AFTER_S):
            raise MediaError(_unfetched(shard, content["reason"]))


def default_cache_folder() -> Path:
    """~/.cache/chatbridge/shards, or the same below $XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chatbridge" / "shards"


def _index(place: Path) -> TarIndex:
    return find_index(place) or open_index(place)


def _failure_note(place: Path) -> Path:
    return place.with_name(f"{place.name}.failed")


def _unfetched(shard: RemoteShard, reason: str) -> str:
    return f"the shard {shard.name} cannot be fetched: {reason}"
