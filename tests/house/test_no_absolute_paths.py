"""No file of ours names a folder of one machine: a user has none of these."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

# a folder of one machine at the start of a path: not inside a URL, a relative path or behind "~"
MACHINE = re.compile(r"(?<![\w.~:$}-])/(?:(?:work|root|mnt|scratch|nfs)/|(?:home|Users)/\w+|tmp/\w)|\b[A-Z]:\\Users")
THIS = Path(__file__).name  # holds the examples below


def text_files(repository: Path) -> list[Path]:
    """What git tracks, without the binary files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [repository / name for name in listed.stdout.split("\0") if name]
    return [file for file in files if file.is_file() and b"\0" not in file.read_bytes()[:4096]]


def machine_paths(file: Path) -> list[str]:
    """The offending lines of a file, each with its number."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [f"{file.name}:{at}: {line.strip()[:100]}" for at, line in enumerate(lines, 1) if MACHINE.search(line)]


def test_no_tracked_file_names_a_machine(repository: Path):
    """fails when a path of the machine something was written on is left in code, configs or documents"""
    files = [file for file in text_files(repository) if file.name != THIS]
    assert len(files) > 20
    found = [line for file in files for line in machine_paths(file)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "is_machine"),
    [
        ("path = '/root/data'", True),
        ("weights: /home/ann/eva.pth", True),
        ("cd /tmp/run && ls", True),
        ("out=/mnt/disk", True),
        ('"/work/main/x"', True),
        ("/Users/ann/x", True),
        ("https://example.org/home/ann/x", False),
        ("~/work/chatbridge", False),
        ("runs/tmp/x", False),
        ("data/home/x", False),
        ("#!/usr/bin/env bash", False),
        ("and/or", False),
        ("/tmp", False),
    ],
)
def test_the_pattern(tmp_path: Path, text: str, is_machine: bool):
    """fails when the pattern overlooks a machine's path, or forbids a URL or a relative path"""
    (tmp_path / "file").write_text(f"first\n{text}\n")
    assert bool(machine_paths(tmp_path / "file")) == is_machine
