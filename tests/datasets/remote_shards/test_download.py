"""Downloads that are interrupted, stall or give the wrong content; commands and other file systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.common.errors import MediaError
from chatbridge.datasets.remote_shards import download
from chatbridge.datasets.remote_shards import open_stream as streams
from chatbridge.datasets.tars.index import open_index
from tests.helpers.remote_shards import cached, opened, over_http, words
from tests.helpers.shard_server import serving

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.mark.parametrize("has_ranges", [True, False])
def test_an_interrupted_connection_resumes_where_it_stopped(shards: Path, has_ranges: bool):
    """fails when a dropped connection loses the shard, half a file is accepted, or bytes on disk are sent again"""
    size = (shards / "002.tar").stat().st_size
    with serving(shards, has_ranges=has_ranges, drop_after=size // 4, drops=3) as server:
        source = over_http(server)
        assert words(source, 8) == "picture number 8"
        assert server.asked["002.tar"] == 4
        whole = size + (shards / "manifest.json").stat().st_size
        assert (server.sent == whole) if has_ranges else (server.sent > whole)


def test_a_part_left_by_a_killed_process_is_used_unless_the_file_changed(shards: Path, tmp_path: Path):
    """fails when a restart downloads from the beginning, or joins parts of two versions of a file"""
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


def test_a_download_by_fsspec_resumes_too(shards: Path, tmp_path: Path, monkeypatch):
    """fails when a download from an object store is not resumed"""
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


def test_a_missing_shard_fails_its_samples_and_is_requested_once(shards: Path):
    """fails when every sample of a missing shard contacts the server, or the run ends in a traceback"""
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
        assert words(over_http(server), 5) == "picture number 5", "a new run tries again"


def test_content_that_differs_from_the_manifest_is_refused(shards: Path):
    """fails when a corrupted or different shard is used, or an error page is taken for a shard"""
    content = (shards / "000.tar").read_bytes()
    (shards / "000.tar").write_bytes(content[:-1] + b"\1")
    (shards / "001.tar").write_bytes(b"<html>not today</html>" * 100)
    with serving(shards) as server:
        with pytest.raises(MediaError, match="sha256 differs from the manifest"):
            words(over_http(server), 0)
        assert server.asked["000.tar"] == 2, "one retry, in case of a transmission error"
        with pytest.raises(MediaError, match="by the manifest"):
            words(over_http(server), 5)
        with pytest.raises(MediaError, match="is a web page"):
            words(over_http(server, samples_per_shard=5), 5)
        assert cached(shards.parent) == []


def test_commands_and_other_file_systems(shards: Path, tmp_path: Path):
    """fails when pipe: or an address of fsspec is not read, or a failing command of a pipeline gives a shard"""
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


def test_a_stalled_download_is_ended(shards: Path, tmp_path: Path, monkeypatch):
    """fails when a server or command without output blocks the run for ever"""
    monkeypatch.setattr(streams, "STALL_S", 0.1)
    with serving(shards, wait_s=3) as server, pytest.raises(streams.FetchError, match="timed out"):
        download.fetch(f"{server.url}/000.tar", tmp_path / "a.part", tries=2)
    with pytest.raises(streams.FetchError, match=r"'sleep 9' had no output"):
        download.fetch("pipe:sleep 9", tmp_path / "b.part", tries=1)
    with pytest.raises(streams.FetchError, match="Connection refused"):
        download.fetch(f"{server.url}/000.tar", tmp_path / "a.part", tries=2)
