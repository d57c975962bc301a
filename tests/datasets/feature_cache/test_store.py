"""Shards, their index and what a kill or damage does to them."""

from __future__ import annotations

import os
import pickle
import signal
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chatbridge.common.errors import DataError
from chatbridge.common.types import Features
from chatbridge.datasets.feature_cache.content import digest, entry_key, file_state, path_key
from chatbridge.datasets.feature_cache.index import INDEX, FeatureIndex, write_index
from chatbridge.datasets.feature_cache.record import FeatureRecord
from chatbridge.datasets.feature_cache.shards import KEYS, Failed, KnownFile, ShardWriter, clean
from chatbridge.datasets.feature_cache.store import FeatureSet
from tests.helpers.small_disk import small_disk

RECORD = FeatureRecord("video", {}, {}, 2, 4, "fp32")


def item(number: int, count: int = 2) -> tuple[bytes, Features]:
    """The content hash of an item and its features: all values are its number plus that of the piece / 10."""
    x = torch.full((count, 2, 4), float(number)) + torch.arange(count)[:, None, None] / 10
    return digest(str(number).encode()), Features(x)


def write(folder: Path, numbers: range, per_shard: int = 3) -> None:
    store = FeatureSet(folder, RECORD)
    writer = ShardWriter(folder, store.layout.row_bytes, shard_bytes=per_shard * 2 * store.layout.row_bytes)
    for number in numbers:
        content, features = item(number)
        keys = [entry_key(content, piece, 2) for piece in range(2)]
        writer.add(keys, store.layout.rows(features).numpy())
        writer.commit_if_due()
    writer.commit()


def reopened(folder: Path) -> FeatureSet:
    write_index(folder)
    store = FeatureSet(folder, RECORD)
    store.check()
    return store


def test_what_was_written_is_read(tmp_path):
    """fails when a key finds another row, a piece is lost between shards, or a pickled store reads differently"""
    write(tmp_path, range(20))
    store = reopened(tmp_path)
    assert len(store.index) == 40 and len(store.index.shards) == 7
    for reader in (store, pickle.loads(pickle.dumps(store))):
        for number in range(20):
            content, features = item(number)
            assert torch.equal(reader.item(content, 2).x, features.x) and reader.holds(content, 2)
    assert store.item(digest(b"absent"), 2) is None
    assert store.item(item(3)[0], 4) is None and not store.holds(item(3)[0], 4)


def test_pieces_in_different_shards_make_one_item(tmp_path):
    """fails when pieces must be neighbours"""
    content, features = item(5)
    rows = FeatureSet(tmp_path, RECORD).layout.rows(features).numpy()
    for piece in (1, 0):
        writer = ShardWriter(tmp_path, rows.shape[1])
        writer.add([entry_key(content, piece, 2)], rows[piece : piece + 1])
        writer.commit()
    assert torch.equal(reopened(tmp_path).item(content, 2).x, features.x)


def test_rows_that_were_not_committed_do_not_exist(tmp_path):
    """fails when the next build keeps the part of a shard, or rows without keys"""
    write(tmp_path, range(3))
    writer = ShardWriter(tmp_path, 64)
    writer.add([digest(b"torn")], np.zeros((1, 64), np.uint8))
    (tmp_path / "orphan.rows").write_bytes(b"x" * 64)
    assert clean(tmp_path) == []
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".keys", ".rows"]
    assert len(reopened(tmp_path).index) == 6


def test_failed_media_and_file_states_are_remembered(tmp_path):
    """fails when the newest state of a file is not the one that counts, or a reason is lost"""
    path, content = tmp_path / "a.jpg", digest(b"content")
    path.write_bytes(b"x")
    for state in (b"s" * 16, file_state(path)):
        writer = ShardWriter(tmp_path, 64)
        writer.add_file(KnownFile(path_key(path), state, content))
        writer.add_failed(Failed(entry_key(content, 0, 4), "NoAudio", "it has no audio"))
        writer.commit()
    store = reopened(tmp_path)
    assert store.content(path) == content != digest(b"x")  # the file was not read
    assert store.failed(content, 4) == ("NoAudio", "it has no audio") and store.holds(content, 4)
    path.write_bytes(b"xy")
    assert store.content(path) == digest(b"xy")


def test_a_full_disk_names_the_file_and_leaves_what_was_committed(tmp_path):
    """fails when a full disk leaves half a shard, costs earlier ones, or the message does not say where"""
    write(tmp_path, range(3))
    rows = np.zeros((2000, 64), np.uint8)
    writer = ShardWriter(tmp_path, 64)
    with small_disk(60_000), pytest.raises(OSError) as error:
        writer.add([digest(bytes([n % 256, n // 256])) for n in range(2000)], rows)
    writer.discard()
    assert str(tmp_path) in str(error.value.filename)
    assert not list(tmp_path.glob("*.part")) and clean(tmp_path) == []
    assert len(reopened(tmp_path).index) == 6


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_found_when_its_row_is_read(tmp_path):
    """fails when damaged values reach a training, or the message does not name the shard"""
    write(tmp_path, range(2))
    store = reopened(tmp_path)
    (rows,) = tmp_path.glob("*.rows")
    _flip(rows, 200)
    assert torch.equal(store.item(item(0)[0], 2).x, item(0)[1].x)  # byte 200 is in row 3, of item 1
    with pytest.raises(DataError, match="row 3 does not have its checksum.*--verify") as error:
        store.item(item(1)[0], 2)
    assert str(rows) in str(error.value)


@pytest.mark.parametrize("kind", ["deleted", "truncated", "index", "keys"])
def test_damage_is_found_before_a_run_starts(tmp_path, kind):
    """fails when a missing or truncated shard, or a damaged index, is found in the middle of a run only"""
    write(tmp_path, range(2))
    store = reopened(tmp_path)
    (rows,) = tmp_path.glob("*.rows")
    path = {"index": tmp_path / INDEX, "keys": rows.with_suffix(KEYS)}.get(kind, rows)
    if kind == "deleted":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        _flip(path, path.stat().st_size - 3)
    with pytest.raises(DataError, match=str(path)):
        write_index(tmp_path) if kind == "keys" else store.check()
    lines = clean(tmp_path)  # the next build removes the shard and makes its features again
    assert len(lines) == (kind != "index") and all(str(path) in line for line in lines)
    assert len(reopened(tmp_path).index) == (4 if kind == "index" else 0)


def test_an_index_cut_anywhere_is_refused(tmp_path):
    """fails when a truncated index is read as one with fewer entries"""
    write(tmp_path, range(2))
    write_index(tmp_path)
    content = (tmp_path / INDEX).read_bytes()
    for length in range(0, len(content), 37):
        (tmp_path / INDEX).write_bytes(content[:length])
        with pytest.raises(DataError, match=INDEX):
            FeatureIndex(tmp_path)


def _endless(folder: Path, has_written: Any) -> None:
    for number in range(10**6):
        write(folder, range(10 * number, 10 * number + 10), per_shard=2)
        has_written.set()


def test_processes_write_side_by_side_and_one_is_killed(tmp_path):
    """fails when writers disturb each other, or a kill -9 at any instant leaves an entry with wrong values"""
    for delay_s in (0.05, 0.11):
        has_written = get_context("fork").Event()
        others = [get_context("fork").Process(target=_endless, args=(tmp_path, has_written)) for _ in range(2)]
        for process in others:
            process.start()
        assert has_written.wait(60)  # a busy machine needs longer than the delay for the first entry
        time.sleep(delay_s)
        for process in others:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        clean(tmp_path)
        store = reopened(tmp_path)
        found = [number for number in range(1500) if store.holds(item(number)[0], 2)]
        assert found
        for number in found:
            assert torch.equal(store.item(item(number)[0], 2).x, item(number)[1].x)
