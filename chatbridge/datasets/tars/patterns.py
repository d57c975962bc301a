"""The local files that match a pattern of shards."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from glob import glob, has_magic
from pathlib import Path

from chatbridge.common.errors import nearest
from chatbridge.config.constraints import is_noted_as_absent

MOST_FILES = 10_000_000  # of one pattern: LAION-5B has half a million
RANGE = re.compile(r"\{(\d+)\.\.(\d+)(?:\.\.\d+)?\}")


def expand(patterns: Iterable[str]) -> tuple[list[Path], list[str]]:
    """The local files of some patterns, and what is wrong with the others.

    A pattern is a path, with brace ranges ("cc3m/{00000..00331}.tar") and wildcards ("laion/*.tar") as in a shell.
    Files keep the order of the patterns; wildcards give sorted names; a file that matches twice counts once.
    """
    files: dict[Path, None] = {}
    faults: list[str] = []
    for pattern in patterns:
        found, absent = _resolve(pattern)
        files |= dict.fromkeys(found)
        if absent and not is_noted_as_absent(Path(absent[0])):
            more = f" (and {len(absent) - 1} more of this pattern)" if len(absent) > 1 else ""
            where = "" if absent[0] == pattern else f"{pattern}: "
            faults.append(f"{where}{_why(absent[0])}{more}{_similar(absent[0])}")
    return list(files), faults


def _resolve(pattern: str) -> tuple[list[Path], list[str]]:
    names, fault = expand_braces(str(Path(pattern).expanduser()))
    found: list[Path] = []
    absent: list[str] = [fault] if fault else []
    for name in names:
        matches = sorted(glob(name, recursive=True)) if has_magic(name) else [name]
        matches = [match for match in matches if not match.endswith(".index")]
        for match in matches or [name]:  # opening a named pipe would block
            if Path(match).is_file():
                found.append(Path(match))
            else:
                absent.append(match)
    return found, absent


def expand_braces(pattern: str) -> tuple[list[str], str | None]:
    """The names of a pattern with its brace ranges written out; or what is wrong with it."""
    from braceexpand import braceexpand

    count = math.prod(abs(int(last) - int(first)) + 1 for first, last in RANGE.findall(pattern))
    if count > MOST_FILES:
        return [], f"{pattern} ({count:,} files, expected at most {MOST_FILES:,}; is there a digit too many?)"
    try:
        return list(braceexpand(pattern)), None
    except ValueError as error:
        return [], f"{pattern} ({error})"


def _why(name: str) -> str:
    path = Path(name)
    if path.is_dir():
        return f"{name} is a folder; use a pattern of the tars in it: {path / '*.tar'}"
    if path.is_symlink() and not path.exists():
        return f"{name} is a broken link"
    return f"{name} is a pipe or a device, expected a file" if path.exists() else f"{name} does not exist"


def _similar(name: str) -> str:
    if os.path.lexists(name):
        return ""
    folder = Path(name).parent
    if not folder.is_dir():
        return f"; the folder {folder} does not exist"
    guess = nearest(Path(name).name, (item.name for item in folder.iterdir()))
    return f"; did you mean {folder / guess}?" if guess and not has_magic(name) else ""
