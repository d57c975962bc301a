"""Which tar files a pattern means."""

from __future__ import annotations

from collections.abc import Iterable
from glob import glob, has_magic
from pathlib import Path

from chatbridge.common.errors import Problem, nearest

REMOTE = ("://", "pipe:")


def expand(patterns: Iterable[str]) -> tuple[list[Path], list[str]]:
    """The files of some patterns, and what is wrong with them.

    A pattern is a path, with brace ranges ("cc3m/{00000..00331}.tar") and wildcards ("laion/*.tar") as the shell has
    them. Files keep the order of the patterns; wildcards give sorted names; a file named twice counts once.
    """
    files: dict[Path, None] = {}
    faults: list[str] = []
    for pattern in patterns:
        if any(mark in pattern for mark in REMOTE):
            faults.append(f"{pattern}: remote shards cannot be read by index; copy them to a local folder first")
            continue
        found, absent = _resolve(pattern)
        files |= dict.fromkeys(found)
        if absent:
            more = f" and {len(absent) - 1} more of this pattern" if len(absent) > 1 else ""
            faults.append(f"{pattern}: there is no {absent[0]}{more}{_similar(absent[0])}")
    return list(files), faults


def shard_problems(patterns: Iterable[str]) -> list[Problem]:
    """The faults of `expand` for a Config."""
    return [Problem("shards", fault) for fault in expand(patterns)[1]]


def _resolve(pattern: str) -> tuple[list[Path], list[str]]:
    from braceexpand import braceexpand  # comes with webdataset

    found: list[Path] = []
    absent: list[str] = []
    try:
        names = list(braceexpand(str(Path(pattern).expanduser())))
    except ValueError as error:
        return [], [f"{pattern} ({error})"]
    for name in names:
        matches = sorted(glob(name, recursive=True)) if has_magic(name) else [name] * Path(name).is_file()
        found += map(Path, matches)
        absent += [] if matches else [name]
    return found, absent


def _similar(name: str) -> str:
    folder = Path(name).parent
    if not folder.is_dir():
        return f"; the folder {folder} does not exist"
    guess = nearest(Path(name).name, (item.name for item in folder.iterdir()))
    return f"; did you mean {folder / guess}?" if guess and not has_magic(name) else ""
