"""The index beside a tar: made once, found again, shared by processes."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import numpy as np

from chatbridge.common import seeds
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import assistant
from chatbridge.datasets.builders.web_pairs import WebPairs
from chatbridge.datasets.tars import index as tar_index
from chatbridge.datasets.tars.index import find_index, open_index, scan
from tests.helpers.tiny_media import pairs, write_tar


def rng(*counters: int) -> np.random.Generator:
    return seeds.stream(0, "test", *counters)


def opened(shards: str | list[str], modality: str = "image", **options: object) -> WebPairs:
    config = parse(WebPairs.Config, {"shards": shards, "modality": modality, **options})
    return WebPairs(config, "pairs")


def test_the_index_is_made_once_and_again_when_the_tar_changes(tmp_path: Path, monkeypatch):
    """fails when every run scans again, or a changed tar is read with an old index"""
    scans = []
    monkeypatch.setattr(tar_index, "scan", lambda tar: scans.append(tar) or scan(tar))
    tar = write_tar(tmp_path / "i.tar", pairs(2))
    assert [len(opened(str(tar))) for _ in range(3)] == [2, 2, 2]
    assert scans == [tar] and (tmp_path / "i.tar.index").is_file()
    write_tar(tar, pairs(5))
    assert len(opened(str(tar))) == 5 and len(scans) == 2
    state = tar.stat()
    os.utime(tar, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert find_index(tar) is None, "same size, other time"
    index = open_index(tar)
    index.file.write_bytes(index.file.read_bytes()[:-3])
    assert find_index(tar) is None, "a torn index does not count"


def test_a_read_only_folder_sends_the_index_to_the_cache(tmp_path: Path, monkeypatch):
    """fails when a data set on a read-only disk cannot be used"""
    tar = write_tar(tmp_path / "ro" / "r.tar", pairs(2))
    make = tar_index.tempfile.mkstemp

    def refuse(dir: Path, prefix: str):
        if Path(dir) == tar.parent:
            raise PermissionError(13, "Permission denied")
        return make(dir=dir, prefix=prefix)

    monkeypatch.setattr(tar_index.tempfile, "mkstemp", refuse)
    source = opened(str(tar), index_folder=str(tmp_path / "cache"))
    assert len(source) == 2 and source.record(1, rng()).conversation[1] == assistant("picture number 1")
    assert [path.name for path in (tmp_path / "ro").iterdir()] == ["r.tar"]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert len(opened(str(tar))) == 2
    assert len(list((tmp_path / "home" / "chatbridge" / "tar_index").iterdir())) == 1


def test_the_index_is_readable_by_others(tmp_path: Path):
    """fails when the index keeps the private mode of a temporary file, or a temporary file stays behind"""
    index = open_index(write_tar(tmp_path / "p.tar", pairs(1)))
    assert stat.S_IMODE(index.file.stat().st_mode) == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.tar", "p.tar.index"]


def test_several_at_once_make_the_same_index(tmp_path: Path):
    """fails when processes that open a data set together read each other's half-written index"""
    tar = write_tar(tmp_path / "c.tar", pairs(200))
    found = []
    threads = [threading.Thread(target=lambda: found.append(open_index(tar))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [index.count for index in found] == [200] * 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.tar", "c.tar.index"]
