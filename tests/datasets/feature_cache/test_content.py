"""Hashes of media and of the state of files."""

from __future__ import annotations

import os
import time

import pytest
import torch

from chatbridge.common.errors import MediaError
from chatbridge.datasets.feature_cache.content import RECENT_NS, content_of, entry_key, file_state, is_settled


def test_content_does_not_depend_on_where_it_is(tmp_path):
    """fails when a copy, or the member of a tar, has other features than the file"""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x" * 3_000_000)
    assert content_of(tmp_path / "a.jpg") == content_of(str(tmp_path / "b.jpg")) == content_of(b"x" * 3_000_000)
    assert content_of(b"y") != content_of(b"x")


def test_a_folder_of_frames_has_the_content_of_its_names_and_files(tmp_path):
    """fails when swapped frames, or a changed frame, have the features of the old ones"""
    found = set()
    for names in (("1", "2"), ("2", "1"), ("1", "3")):
        folder = tmp_path / "".join(names)
        folder.mkdir()
        for name, content in zip(names, (b"red", b"green")):
            (folder / f"{name}.jpg").write_bytes(content)
        found.add(content_of(folder))
        state = file_state(folder)
        (folder / f"{names[0]}.jpg").write_bytes(b"bleu")
        assert file_state(folder) != state
        found.add(content_of(folder))
    assert len(found) == 6


def test_tensors_have_their_values_and_their_shape():
    """fails when a reshaped or cast tensor counts as the same"""
    x = torch.zeros(2, 3)
    assert len({content_of(one) for one in (x, x.T, x.double(), x + 1, x.clone())}) == 4


def test_restored_times_do_not_hide_a_change(tmp_path):
    """fails when a file with its old size and modification time counts as unchanged"""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    before, times = file_state(path), path.stat()
    time.sleep(0.02)  # a tick of the file system's clock
    path.write_bytes(b"new")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns and file_state(path) != before


def test_a_file_that_changed_just_now_is_not_settled(tmp_path, monkeypatch):
    """fails when a file could change again within the same tick, unseen"""
    path = tmp_path / "a"
    path.write_bytes(b"x")
    assert not is_settled(path) and not is_settled(tmp_path / "absent")
    later = time.time_ns() + RECENT_NS + 1
    monkeypatch.setattr(time, "time_ns", lambda: later)
    assert is_settled(path)


@pytest.mark.parametrize("name", ["absent.jpg", "empty.jpg"])
def test_what_cannot_be_read_is_a_media_error(tmp_path, name):
    """fails when a missing file stops a run, or an empty one has a hash"""
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(MediaError, match=name):
        content_of(tmp_path / name)


def test_each_piece_has_a_key_of_its_own():
    """fails when piece 1 of 2 and piece 1 of 4 share an entry: they are different frames"""
    keys = {entry_key(content, piece, count) for content in (b"a" * 16, b"b" * 16) for count in (1, 2, 4)
            for piece in range(count)}  # fmt: skip
    assert len(keys) == 14 and all(len(key) == 16 for key in keys)
