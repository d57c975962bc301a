"""The command that builds a feature cache, with the YAML file that this process reads, for messages."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

UNKNOWN = "<your file>.yaml"
_read: list[str] = []  # words of the command: the file, and the options given beside it


def remember_file(path: str | Path, options: Sequence[str] = ()) -> None:
    """From now on messages of this process name this file. Workers of a loader that are started afresh name none."""
    _read[:] = [str(path), *(["--options", *options] if options else [])]


def cache_command(flag: str = "") -> str:
    """`chatbridge cache runs/x.yaml --options a=b`. flag: --verify, or nothing"""
    words = shlex.join(_read) if _read else UNKNOWN
    return " ".join(filter(None, ["chatbridge cache", words, flag]))


def build_hint(what: str = "it") -> str:
    """ "build it: chatbridge cache x.yaml" """
    return f"build {what}: {cache_command()}"


def repair_hint() -> str:
    """What to do about damaged shards."""
    return f"`{cache_command('--verify')}` removes damaged shards, `{cache_command()}` then builds what is missing"
