"""Remote shards: fetched once, resumed, bounded on disk, in an order that nothing but the seed decides."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import signal
import sys
import time
import tracemalloc
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.config.schema import parse
from chatbridge.datasets.builders.web_pairs import WebPairs
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.remote_shards import cache as shard_cache
from chatbridge.datasets.remote_shards import download
from chatbridge.datasets.remote_shards import open_stream as streams
from chatbridge.datasets.remote_shards.addresses import RemoteShard, shown
from chatbridge.datasets.remote_shards.cache import ShardCache
from chatbridge.datasets.remote_shards.locks import lock_file, open_lock
from chatbridge.datasets.tars.index import open_index
from chatbridge.datasets.workers.time_limit import time_limit
from tests.helpers.shard_server import ShardServer, serving
from tests.helpers.tiny_media import pairs, write_tar

SIZES = (5, 3, 7, 4, 6)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(download, "_sleep", lambda seconds: None)
    monkeypatch.setenv("CHATBRIDGE_ALLOW_PIPE", "1")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Five tars of 5, 3, 7, 4 and 6 samples with a manifest; picture and caption carry the running number."""
    folder, first, files = tmp_path / "shards", 0, []
    for number, size in enumerate(SIZES):
        tar = write_tar(folder / f"{number:03}.tar", pairs(size, first))
        content = tar.read_bytes()
        files.append({"path": tar.name, "samples": size, "bytes": len(content), "sha256": sha256(content).hexdigest()})
        first += size
    (folder / "manifest.json").write_text(json.dumps({"name": "test", "files": files}))
    return folder


def opened(folder: Path, pattern: str, **options: object) -> WebPairs:
    settings = {"shards": pattern, "modality": "image", "cache_folder": str(folder / "cache"), **options}
    return WebPairs(parse(WebPairs.Config, settings), "pairs")


def over_http(server: ShardServer, **options: object) -> WebPairs:
    return opened(server.folder.parent, f"{server.url}/{{000..004}}.tar", **options)


def words(source: WebPairs, index: int) -> str:
    return source.record(index, np.random.default_rng(0)).conversation[1].text


def cached(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").glob("*/*.tar"))


def test_samples_are_those_of_local_shards_and_come_once(shards: Path):
    """fails when a remote sample is another one than the local one, or a shard is fetched again and again"""
    with serving(shards) as server:
        source = over_http(server)
        local = WebPairs(parse(WebPairs.Config, {"shards": f"{shards}/*.tar", "modality": "image"}), "pairs")
        assert len(source) == len(local) == sum(SIZES)
        assert server.asked == {"manifest.json": 1}, "nothing is fetched before a sample is asked for"
        for index in np.random.default_rng(0).permutation(len(source)).tolist():
            assert source.record(index, np.random.default_rng(0)) == local.record(index, np.random.default_rng(0))
            assert source.sample_id(index) == local.sample_id(index)
        again = over_http(server)
        copy = pickle.loads(pickle.dumps({"source": source, "order": source.shuffle(0)}))
        assert copy["order"]._follow.__self__ is copy["source"]._shards, "a spawned worker follows its own window"
        assert copy["source"]._shards._forget.__self__ is copy["source"]._files
        assert words(again, 24) == words(pickle.loads(pickle.dumps(source)), 24) == "picture number 24"
        assert server.asked == dict.fromkeys([f"00{n}.tar" for n in range(5)], 1) | {"manifest.json": 1}


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_broken_connection_goes_on_where_it_stopped(shards: Path, has_ranges: bool):
    """fails when a dropped connection loses the shard, half a file passes as whole, or what is here comes again"""
    size = (shards / "002.tar").stat().st_size
    with serving(shards, has_ranges=has_ranges, drop_after=size // 4, drops=3) as server:
        source = over_http(server)
        assert words(source, 8) == "picture number 8"
        assert server.asked["002.tar"] == 4
        whole = size + (shards / "manifest.json").stat().st_size
        assert (server.sent == whole) if has_ranges else (server.sent > whole)


def test_a_part_left_by_a_killed_process_is_used_unless_the_file_changed(shards: Path, tmp_path: Path):
    """fails when a restart fetches from the beginning, or glues the old half of a file to the new one"""
    tar = shards / "000.tar"
    content = tar.read_bytes()
    with serving(shards) as server:
        for has_changed in (False, True):
            part = tmp_path / f"{has_changed}.part"
            part.write_bytes(b"\7" * 100 if has_changed else content[:100])
            tag = '"other"' if has_changed else f'"{tar.stat().st_mtime_ns}"'
            part.with_name(f"{part.name}.tag").write_text(tag)
            server.sent = 0
            download.fetch(f"{server.url}/000.tar", part)
            assert part.read_bytes() == content
            assert server.sent == len(content) - (0 if has_changed else 100)


def test_a_transfer_by_fsspec_goes_on_too(shards: Path, tmp_path: Path, monkeypatch):
    """fails when object stores are read from the beginning after a break"""
    content = (shards / "002.tar").read_bytes()
    part = tmp_path / "x.part"
    part.write_bytes(content[:5000])
    tag = str((shards / "002.tar").stat().st_mtime)
    part.with_name("x.part.tag").write_text(tag)
    starts: list[int] = []
    begin = download.open_stream
    monkeypatch.setattr(download, "open_stream", lambda *asked: starts.append((s := begin(*asked)).start) or s)
    download.fetch(f"file://{shards}/002.tar", part)
    assert part.read_bytes() == content and starts == [5000]
    part.write_bytes(content + b"too long")
    with serving(shards) as server:
        part.with_name("x.part.tag").write_text(f'"{(shards / "002.tar").stat().st_mtime_ns}"')
        download.fetch(f"{server.url}/002.tar", part)
    assert part.read_bytes() == content


def test_a_shard_that_is_gone_fails_its_samples_and_is_asked_for_once(shards: Path):
    """fails when every sample of a missing shard asks the server, or the run ends in a traceback"""
    with serving(shards, status={"001.tar": 404, "002.tar": 503}) as server:
        source = over_http(server)
        assert words(source, 0) == "picture number 0"
        for index in (5, 6, 7):
            with pytest.raises(MediaError, match=r"the shard 001.tar cannot be fetched: .*the server answered 404"):
                words(source, index)
        assert source.sample_id(6) == "001.tar/sample 1"
        assert server.asked["001.tar"] == 1
        with pytest.raises(MediaError, match="answered 503"):
            words(source, 8)
        with pytest.raises(MediaError, match="answered 503"):
            words(source, 9)
        assert server.asked["002.tar"] == download.TRIES
        server.status.clear()
        assert words(over_http(server), 5) == "picture number 5", "a new run asks again"


def test_a_download_is_no_fault_of_the_sample_that_waits_for_it(shards: Path):
    """fails when the limit on reading one sample ends the download of its shard"""
    with serving(shards, wait_s=0.6) as server:
        source = over_http(server, samples_per_shard=5)
        with time_limit(0.5):
            assert words(source, 0) == "picture number 0"


def test_what_is_not_the_file_of_the_manifest_is_refused(shards: Path):
    """fails when a corrupted or exchanged shard is used, or an error page becomes a shard"""
    content = (shards / "000.tar").read_bytes()
    (shards / "000.tar").write_bytes(content[:-1] + b"\1")
    (shards / "001.tar").write_bytes(b"<html>not today</html>" * 100)
    with serving(shards) as server:
        with pytest.raises(MediaError, match="sha256 differs from the manifest"):
            words(over_http(server), 0)
        assert server.asked["000.tar"] == 2, "once more, in case it broke on the way"
        with pytest.raises(MediaError, match="by the manifest"):
            words(over_http(server), 5)
        with pytest.raises(MediaError, match="is a web page"):
            words(over_http(server, samples_per_shard=5), 5)
        assert cached(shards.parent) == []


def test_commands_and_other_file_systems(shards: Path, tmp_path: Path):
    """fails when pipe: or an address of fsspec is not read, or a failing part of a pipeline passes as a whole shard"""
    source = opened(tmp_path, f"pipe:cat {shards}/{{000..004}}.tar", samples_per_shard=5)
    assert len(source) == 25 and [words(source, index) for index in (0, 24)] == [
        "picture number 0",
        "picture number 23",
    ]
    broken = opened(tmp_path, f"pipe:echo no luck >&2; false | cat {shards}/000.tar", samples_per_shard=5)
    with pytest.raises(MediaError, match="failed with status 1: no luck"):
        words(broken, 0)
    local = opened(tmp_path, f"file://{shards}/{{000..004}}.tar")
    assert [words(local, index) for index in (4, 24)] == ["picture number 4", "picture number 24"]
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/x.tar", (shards / "001.tar").read_bytes())
    memory.pipe("/bucket/x.tar.index", open_index(shards / "001.tar").file.read_bytes())
    source = opened(tmp_path, "memory://bucket/x.tar")
    assert len(source) == 3 and words(source, 1) == "picture number 6"
    gone = opened(tmp_path, "memory://bucket/y.tar", samples_per_shard=3)
    with pytest.raises(MediaError, match="no such file"):
        words(gone, 0)


def test_counts_come_from_what_lies_beside_the_shards(shards: Path, tmp_path: Path):
    """fails when img2dataset's statistics are not read, an unknown count passes as 0, or a restart asks again"""
    (shards / "manifest.json").unlink()
    for number, size in enumerate(SIZES):
        stats = {"count": 10, "successes": size, "failed_to_download": 10 - size}
        (shards / f"{number:03}_stats.json").write_text(json.dumps(stats))
    with serving(shards) as server:
        assert len(over_http(server)) == len(over_http(server)) == sum(SIZES)
        assert server.asked["001_stats.json"] == 1
        (shards / "003_stats.json").unlink()
        with pytest.raises(DataError, match=r"unknown for 1 of 2 remote shards, first .*/003.tar"):
            opened(tmp_path, f"{server.url}/00{{2,3}}.tar")
        with pytest.raises(DataError, match="set samples_per_shard"):
            opened(tmp_path, f"pipe:curl {server.url}/000.tar")


def test_a_shard_that_breaks_off_does_not_repeat_its_beginning(shards: Path, tmp_path: Path):
    """fails when a command whose output breaks off costs samples in silence: the first ones stand in for them"""
    source = opened(tmp_path, f"pipe:head -c 4000 {shards}/000.tar", samples_per_shard=5)
    reasons = []
    for index in range(5):
        try:
            reasons.append(source.record(index, np.random.default_rng(0)).id)
        except MediaError as error:
            reasons.append(str(error))
    assert reasons[0] == "000.tar/00000" and "000.tar is damaged at byte" in reasons[-1]
    assert [reasons.count(f"000.tar/{index:05}") <= 1 for index in range(5)] == [True] * 5


def test_a_wrong_number_of_samples_per_shard_is_doubted(shards: Path, tmp_path: Path):
    """fails when samples that repeat within a pass, or are never read, are told by nobody"""
    pattern = f"file://{shards}/{{000..004}}.tar"  # of 5, 3, 7, 4 and 6
    effects = {"repeat": 20, "never read": 3, None: 6}
    for effect, said in effects.items():
        source = opened(tmp_path / str(said), pattern, samples_per_shard=said)
        assert source.doubt() is None, "nothing was fetched"
        for first in range(0, len(source), said):
            source.record(first, np.random.default_rng(0))
        doubt = source.doubt()
        assert doubt is None if effect is None else effect in str(doubt) and "set samples_per_shard: 5" in str(doubt)


def test_the_order_of_a_large_source_costs_no_memory_per_sample(tmp_path: Path):
    """fails when an arrangement lists the samples: LAION's hundreds of millions would take gigabytes"""
    source = opened(tmp_path, "http://127.0.0.1:9/{000..099}.tar", samples_per_shard=10**6)
    assert len(source) == 10**8
    tracemalloc.start()
    order = source.shuffle(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7
    assert len(set(order.indices(np.arange(1000)).tolist())) == 1000


def test_the_cache_stays_small_and_keeps_what_is_read(shards: Path, tmp_path: Path, caplog):
    """fails when the cache outgrows its limit, removes a shard that is being read, or keeps the oldest"""
    found = [RemoteShard(f"file://{shards}/{n:03}.tar", 1, (shards / f"{n:03}.tar").stat().st_size) for n in range(5)]
    cache = ShardCache(tmp_path / "cache", sum(shard.bytes or 0 for shard in found[:3]) * 1.2, time.time())
    held = cache.hold(found[0])
    for number in (1, 2, 3, 4):
        hold = cache.hold(found[number])
        assert held is not None and hold is not None
        os.utime(cache.place(found[number]).with_name(f"{found[number].name}.lock"), (number, number))
        hold.release()
        assert cached(tmp_path)[0] == "000.tar", "somebody reads it"
    assert "004.tar" in cached(tmp_path) and "001.tar" not in cached(tmp_path)
    assert len(cached(tmp_path)) <= 3
    holds = [cache.hold(shard) for shard in found]
    assert cached(tmp_path) == [shard.name for shard in found] and all(holds)
    assert "more than cache_gb allows" in caplog.text


def test_nothing_is_fetched_ahead_beyond_the_limit(shards: Path, tmp_path: Path):
    """fails when fetching ahead takes room from the shards being read, or waits for somebody else's download"""
    one, two = (RemoteShard(f"file://{shards}/{n:03}.tar", 1, 30_000) for n in range(2))
    cache = ShardCache(tmp_path / "cache", 40_000, time.time())
    one = RemoteShard(one.address, 1, (shards / "000.tar").stat().st_size)
    held = cache.hold(one)
    assert held is not None and cache.hold(two, wait=False) is None
    held.release()
    lock = open_lock(shard_cache.lock_of(cache.place(one)))
    assert lock_file(lock, True, wait=False)
    assert cache.hold(one, wait=False) is None
    os.close(lock)


def test_a_full_disk_ends_the_run_with_words(shards: Path, tmp_path: Path, monkeypatch):
    """fails when a full disk is taken for broken samples, or ends in a traceback"""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard_cache, "fetch", full)
    with pytest.raises(DataError, match=r"the disk of the cache folder .* is full .* choose another cache_folder"):
        words(opened(tmp_path, f"file://{shards}/{{000..004}}.tar"), 0)
    monkeypatch.setattr(shard_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    monkeypatch.setattr(shard_cache, "fetch", download.fetch)
    with pytest.raises(DataError, match="000.tar does not fit"):
        words(opened(tmp_path, f"file://{shards}/{{000..004}}.tar"), 0)


def test_what_stalls_is_given_up(shards: Path, tmp_path: Path, monkeypatch):
    """fails when a server or command that says nothing more holds the run for ever"""
    monkeypatch.setattr(streams, "STALL_S", 0.1)
    with serving(shards, wait_s=3) as server, pytest.raises(streams.FetchError, match="timed out"):
        download.fetch(f"{server.url}/000.tar", tmp_path / "a.part", tries=2)
    with pytest.raises(streams.FetchError, match=r"'sleep 9' had no output"):
        download.fetch("pipe:sleep 9", tmp_path / "b.part", tries=1)
    with pytest.raises(streams.FetchError, match="Connection refused"):
        download.fetch(f"{server.url}/000.tar", tmp_path / "a.part", tries=2)


def test_a_folder_that_cannot_be_written_ends_the_run_with_words(shards: Path, tmp_path: Path):
    """fails when a cache folder that is a file ends in a traceback"""
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="cache folder .* cannot be"):
        words(opened(tmp_path, f"file://{shards}/{{000..004}}.tar", samples_per_shard=3), 0)


def test_patterns_are_checked_before_anything_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a missing package or an open range is found only after an hour"""
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    for pattern, message in (
        ("s3://bucket/{0..3}.tar", "pip install -e '.[remote]'"),
        ("https://host/*.tar", "cannot be listed"),
        ("htps://host/1.tar", "htps"),
    ):
        with pytest.raises(ConfigError) as caught:
            opened(tmp_path, pattern)
        assert message in " ".join(str(caught.value).split())
    assert shown("https://me:secret@host/a/1.tar?signature=secret") == "https://host/a/1.tar"


def test_the_next_window_is_fetched_while_this_one_is_read(shards: Path):
    """fails when fetching ahead does not start, or the last window keeps its shards for ever"""
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
        if (fetching := mine.thread) is not None:  # None: it has found nothing left to do
            fetching.join(60)
        assert set(mine.holds) <= set(source._shards._wanted) != set(wanted)


def test_passes_over_many_shards_leave_little_behind(tmp_path: Path):
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
    if thread is not None:  # None: it has found nothing left to do
        thread.join(60)
    assert len(cached(tmp_path)) <= 6
    if not Path("/proc/self/fd").is_dir():
        return
    descriptors = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    names = [str(one.readlink()) for one in descriptors if one.is_symlink()]
    ours = [name for name in names if name.startswith(str(tmp_path))]
    assert len(ours) <= 3 * 4 and not any("deleted" in name for name in ours), ours


def read_steps(source: WebPairs, start: int, stop: int, offset: int, workers: int, out) -> None:
    mixture = Mixture({"pairs": source}, {"pairs": 1.0}, seed=3, global_batch=4)
    try:
        for step in range(start + offset, stop, workers):
            out.put((step, [source.sample_id(draw.index) for draw in mixture.draws(step)]))
    except BaseException as error:
        out.put((step, [f"{type(error).__name__}: {error}"]))
        raise


def in_workers(source: WebPairs, start: int, stop: int, workers: int, kill_after: int = 0) -> dict[int, list[str]]:
    """The ids of some steps as several processes read them; they may be killed in the middle."""
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    processes = [
        context.Process(target=read_steps, args=(source, start, stop, offset, workers, out))
        for offset in range(workers)
    ]
    for process in processes:
        process.start()
    found = dict(out.get(timeout=120) for _ in range(kill_after or stop - start))
    for process in processes:
        if kill_after and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
    return found


def test_killed_and_resumed_with_other_workers_the_ids_are_the_same(shards: Path):
    """fails when the number of workers, a kill -9 during a download, or what is in the cache moves a sample"""
    with serving(shards, wait_s=0.01) as server:
        expected = in_workers(over_http(server, window_shards=2, cache_folder=str(shards / "other")), 0, 20, 1)
        server.asked.clear()
        together = over_http(server, window_shards=2, cache_folder=str(shards / "together"))
        assert in_workers(together, 0, 20, 3) == expected
        assert set(server.asked.values()) == {1}, "one process fetches, the others wait"
        source = over_http(server, window_shards=2, cache_gb=5e-5)
        killed = in_workers(source, 0, 20, 4, kill_after=3)
        assert all(expected[step] == ids for step, ids in killed.items())
        resumed = in_workers(over_http(server, window_shards=2, cache_gb=5e-5), 5, 20, 2)
        assert resumed == {step: expected[step] for step in range(5, 20)}
