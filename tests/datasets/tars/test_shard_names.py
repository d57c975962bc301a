"""Invalid patterns of shards: one line that describes what was found instead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chatbridge.datasets.remote_shards.addresses import expand_remote
from chatbridge.datasets.remote_shards.open_stream import open_stream
from chatbridge.datasets.tars.patterns import expand
from tests.helpers.shard_server import serving


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("folder", "folder is a folder; use a pattern of the tars in it: "),
        ("a/*.tar", "pipe.tar is a pipe or a device, expected a file"),
        ("gone.tar", "gone.tar is a broken link"),
        ("loop.tar", "loop.tar is a broken link"),
        ("{0..99999999999}.tar", "(100,000,000,000 files, expected at most 10,000,000"),
        ("{0..99999}/{0..99999}.tar", "(10,000,000,000 files"),
        ("none-*.tar", " does not exist"),
    ],
)
def test_patterns_without_a_tar(tmp_path: Path, pattern: str, words: str):
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
    assert addresses == [] and "is there a digit too many?" in faults[0]


def test_a_name_with_pattern_characters(tmp_path: Path):
    """fails when brackets in the name of an existing file are taken for a pattern"""
    (tmp_path / "part [1].tar").write_bytes(b"")
    assert expand([f"{tmp_path}/part [1].tar"]) == ([tmp_path / "part [1].tar"], [])


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("pipe: ", "has no command"),
        ("http:///x.tar", "has no host"),
        ("://bucket/x.tar", "has no protocol before ://"),
        ("http://[::1/x.tar", "is not a valid address: Invalid IPv6 URL"),
    ],
)
def test_invalid_addresses(address: str, words: str):
    """fails when an incomplete address is reported sample by sample, or without the address"""
    addresses, faults = expand_remote([address])
    assert addresses == [] and len(faults) == 1 and faults[0].startswith(f"{address}: {words}")


@pytest.mark.parametrize(
    ("written", "asked"),
    [("a b.tar", "a%20b.tar"), ("ü.tar", "%C3%BC.tar"), ("a%20b.tar", "a%20b.tar"), ("x.tar?k=a%3D", "x.tar")],
)
def test_spaces_and_letters_in_addresses(tmp_path: Path, written: str, asked: str):
    """fails when a name with a space or an umlaut cannot be downloaded, or an encoded name is encoded twice"""
    (tmp_path / asked).write_bytes(b"content")
    with serving(tmp_path) as server:
        assert b"".join(open_stream(f"{server.url}/{written}", 0, "").chunks) == b"content"
