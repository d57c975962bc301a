"""The cache: bounded on disk, downloads ahead of use, and a full disk."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest

from chatbridge.common.errors import DataError
from chatbridge.datasets.remote_shards import cache as shard_cache
from chatbridge.datasets.remote_shards import cache_space, download
from chatbridge.datasets.remote_shards.addresses import RemoteShard
from chatbridge.datasets.remote_shards.cache import ShardCache
from chatbridge.datasets.remote_shards.locks import lock_file, open_lock
from tests.helpers.remote_shards import SIZES, cached, opened, over_http, words
from tests.helpers.shard_server import serving
from tests.helpers.tiny_media import pairs, write_tar

pytestmark = pytest.mark.usefixtures("no_waiting")


def test_the_cache_stays_small_and_keeps_shards_in_use(shards: Path, tmp_path: Path, caplog):
    """fails when the cache exceeds its limit, removes a shard in use, or keeps the oldest"""
    found = [RemoteShard(f"file://{shards}/{n:03}.tar", 1, (shards / f"{n:03}.tar").stat().st_size) for n in range(5)]
    cache = ShardCache(tmp_path / "cache", sum(shard.bytes or 0 for shard in found[:3]) * 1.2, time.time())
    held = cache.hold(found[0])
    for number in (1, 2, 3, 4):
        hold = cache.hold(found[number])
        assert held is not None and hold is not None
        os.utime(cache.place(found[number]).with_name(f"{found[number].name}.lock"), (number, number))
        hold.release()
        assert cached(tmp_path)[0] == "000.tar", "it is in use"
    assert "004.tar" in cached(tmp_path) and "001.tar" not in cached(tmp_path)
    assert len(cached(tmp_path)) <= 3
    holds = [cache.hold(shard) for shard in found]
    assert cached(tmp_path) == [shard.name for shard in found] and all(holds)
    assert "more than cache_gb allows" in caplog.text


def test_nothing_is_downloaded_ahead_beyond_the_limit(shards: Path, tmp_path: Path):
    """fails when a download ahead of use takes space from shards in use, or waits for another download"""
    one, two = (RemoteShard(f"file://{shards}/{n:03}.tar", 1, 30_000) for n in range(2))
    cache = ShardCache(tmp_path / "cache", 40_000, time.time())
    one = RemoteShard(one.address, 1, (shards / "000.tar").stat().st_size)
    held = cache.hold(one)
    assert held is not None and cache.hold(two, wait=False) is None
    held.release()
    lock = open_lock(cache_space.lock_of(cache.place(one)))
    assert lock_file(lock, True, wait=False)
    assert cache.hold(one, wait=False) is None
    os.close(lock)


def test_a_full_disk_ends_the_run_with_a_message(shards: Path, tmp_path: Path, monkeypatch):
    """fails when a full disk is taken for broken samples, or ends in a traceback"""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard_cache, "fetch", full)
    with pytest.raises(DataError, match=r"the disk of the cache folder .* is full .* choose another cache_folder"):
        words(opened(tmp_path, f"file://{shards}/{{000..004}}.tar"), 0)
    monkeypatch.setattr(cache_space.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    monkeypatch.setattr(shard_cache, "fetch", download.fetch)
    with pytest.raises(DataError, match="000.tar does not fit"):
        words(opened(tmp_path, f"file://{shards}/{{000..004}}.tar"), 0)


def test_a_folder_that_is_not_writable_ends_the_run_with_a_message(shards: Path, tmp_path: Path):
    """fails when a cache folder that is a file ends in a traceback"""
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="cache folder .* cannot be"):
        words(opened(tmp_path, f"file://{shards}/{{000..004}}.tar", samples_per_shard=3), 0)


def test_the_next_window_is_downloaded_while_this_one_is_read(shards: Path):
    """fails when downloads ahead of use do not start, or the last window keeps its shards for ever"""
    with serving(shards) as server:
        source = over_http(server, window_shards=2)
        order = source.shuffle(seed=1)
        read = [words(source, int(index)) for index in order.indices(np.array([0]))]
        assert len(read) == 1
        wanted = source._shards._wanted
        deadline = time.monotonic() + 60
        while len(cached(shards.parent)) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert cached(shards.parent) == sorted(f"00{number}.tar" for number in wanted) and len(wanted) == 4
        last = order.indices(np.array([sum(SIZES) - 1]))
        words(source, int(last[0]))
        mine = source._shards._process
        if (fetching := mine.thread) is not None:  # None: it has finished
            fetching.join(60)
        assert set(mine.held) <= set(source._shards._wanted) != set(wanted)


def test_passes_over_many_shards_keep_few_files(tmp_path: Path):
    """fails when files stay open after their window, or the cache grows from window to window"""
    for number in range(12):
        write_tar(tmp_path / "many" / f"{number:02}.tar", pairs(2, 2 * number))
    size = 300 + (tmp_path / "many" / "00.tar").stat().st_size  # with its index
    source = opened(
        tmp_path,
        f"file://{tmp_path}/many/{{00..11}}.tar",
        samples_per_shard=2,
        window_shards=2,
        cache_gb=6 * size / 1e9,
    )
    order = source.shuffle(0)
    for drawn in range(3 * len(source)):
        words(source, int(order.indices(np.array([drawn]))[0]))
    thread = source._shards._process.thread
    if thread is not None:  # None: it has finished
        thread.join(60)
    assert len(cached(tmp_path)) <= 6
    if not Path("/proc/self/fd").is_dir():
        return
    descriptors = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    names = [str(one.readlink()) for one in descriptors if one.is_symlink()]
    ours = [name for name in names if name.startswith(str(tmp_path))]
    assert len(ours) <= 3 * 4 and not any("deleted" in name for name in ours), ours
