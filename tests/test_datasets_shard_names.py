"""Patterns of shards that people get wrong: one line that says what stands there instead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chatbridge.datasets.shards import expand, expand_remote


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("folder", "folder is a folder; name the tars in it: "),
        ("a/*.tar", "pipe.tar is a pipe or a device, no file"),
        ("gone.tar", "gone.tar is a link to what is not there"),
        ("loop.tar", "loop.tar is a link to what is not there"),
        ("{0..99999999999}.tar", "means 100,000,000,000 files, expected at most 10,000,000"),
        ("{0..99999}/{0..99999}.tar", "means 10,000,000,000 files"),
        ("none-*.tar", "there is no "),
    ],
)
def test_what_is_no_tar(tmp_path: Path, pattern: str, words: str):
    """fails when a pipe is waited for, a digit too many fills the memory, or a name is offered as its own correction"""
    (tmp_path / "folder").mkdir()
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a/pipe.tar")
    os.symlink(tmp_path / "nowhere", tmp_path / "gone.tar")
    os.symlink(tmp_path / "loop.tar", tmp_path / "loop.tar")
    files, faults = expand([f"{tmp_path}/{pattern}"])
    assert files == [] and len(faults) == 1 and words in faults[0] and "did you mean" not in faults[0]


def test_ranges_of_addresses_have_an_end():
    """fails when a digit too many in a remote range fills the memory"""
    addresses, faults = expand_remote(["https://x.org/{0..99999999999}.tar"])
    assert addresses == [] and "a digit too many?" in faults[0]


def test_a_name_with_the_signs_of_a_pattern(tmp_path: Path):
    """fails when a file that is there cannot be named because of its brackets"""
    (tmp_path / "part [1].tar").write_bytes(b"")
    assert expand([f"{tmp_path}/part [1].tar"]) == ([tmp_path / "part [1].tar"], [])
