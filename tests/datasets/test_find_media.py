"""Ids in annotations to files: where they are looked up, and what is reported when there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chatbridge.common.errors import MediaError
from chatbridge.datasets.media_paths import find_media


def test_lookup_rules(tmp_path: Path):
    """fails when a documented location is not searched, a folder's name is changed, or frames are not found"""
    root = tmp_path / "wavcaps"
    for name in ("a.jpg", "b.JPEG", "ab/abc.jpg", "s.mp3", "y1/Y1z.wav", "clip.mp4", "t.mkv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "video7").mkdir()
    (root / "vi").mkdir()
    (root / "vi" / "Video8").mkdir()
    for modality, name, found in (
        ("image", "a.jpg", "a.jpg"),
        ("image", "a", "a.jpg"),
        ("image", "b.jpg", "b.JPEG"),
        ("image", "abc", "ab/abc.jpg"),
        ("video", "video7", "video7"),
        ("video", "Video8", "vi/Video8"),
        ("video", "clip", "clip.mp4"),
        ("audio", "s", "s.mp3"),
        ("audio", "s.wav", "s.mp3"),
        ("audio", "Y1z", "y1/Y1z.wav"),
        ("audio", "clip.mp4", "clip.mp4"),
        ("audio", "t", "t.mkv"),
        ("audio", "clip", "clip.mp4"),
    ):
        assert find_media(root, name, modality) == root / found, (modality, name)
    assert find_media(root, ["z.jpg", "b", "a.jpg"], "image") == root / "a.jpg"  # exactly named, before what is guessed
    for modality, name in (("image", "video7"), ("image", "z"), ("audio", "a.jpg.x"), ("image", "x" * 300)):
        with pytest.raises(MediaError, match=f"no {modality} file for '{name}'"):
            find_media(root, name, modality)


def test_a_path_that_is_not_a_file_is_named(tmp_path: Path):
    """fails when a pipe, a folder or a dangling link is reported as a missing file"""
    os.mkfifo(tmp_path / "a.jpg")
    os.symlink(tmp_path / "nowhere", tmp_path / "b.png")
    for name, there in (("a", "a.jpg"), ("b.png", "b.png")):
        with pytest.raises(MediaError, match=f"no image file for '{name}' .*; '{there}' exists, but is not a file"):
            find_media(tmp_path, name, "image")
