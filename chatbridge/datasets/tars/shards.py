"""Which tar files a pattern means, and local shards by number."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from glob import glob, has_magic
from pathlib import Path

from chatbridge.common.errors import Problem, nearest
from chatbridge.datasets.remote_shards.addresses import PIPE, fault_of, is_remote, missing_package
from chatbridge.datasets.tars.index import TarIndex
from chatbridge.datasets.unique_names import UniqueNames

MOST_FILES = 10_000_000  # of one pattern: LAION-5B has half a million
RANGE = re.compile(r"\{(\d+)\.\.(\d+)(?:\.\.\d+)?\}")


class LocalShards:
    """Indexed tars by number."""

    def __init__(self, indexes: Sequence[TarIndex]):
        self._indexes = list(indexes)
        self.counts = [index.count for index in indexes]
        self.names = shard_names([index.tar.parts for index in indexes])

    def name(self, number: int) -> str:
        return self.names.get(number) or self._indexes[number].tar.name

    def open(self, number: int) -> TarIndex:
        return self._indexes[number]

    def row(self, number: int, row: int, index: TarIndex) -> int:
        return row

    def at_hand(self) -> dict[int, TarIndex]:
        """All of them."""
        return dict(enumerate(self._indexes))


def shard_names(places: Sequence[Sequence[str]]) -> dict[int, str]:
    """Names of the shards whose file name another shard has too: with as many folders as tell them apart.

    places   the parts of each path or address
    """
    alike: dict[str, list[int]] = {}
    for number, parts in enumerate(places):
        alike.setdefault(parts[-1], []).append(number)
    names: dict[int, str] = {}
    unique = UniqueNames()
    for numbers in alike.values():
        if len(numbers) == 1:
            continue
        depth, deepest = 2, max(len(places[number]) for number in numbers)
        while depth < deepest and len({tuple(places[number][-depth:]) for number in numbers}) < len(numbers):
            depth += 1
        names |= {number: unique("/".join(places[number][-depth:]).replace("//", "/")) for number in numbers}
    return names


def expand(patterns: Iterable[str]) -> tuple[list[Path], list[str]]:
    """The local files of some patterns, and what is wrong with them.

    A pattern is a path, with brace ranges ("cc3m/{00000..00331}.tar") and wildcards ("laion/*.tar") as the shell has
    them. Files keep the order of the patterns; wildcards give sorted names; a file named twice counts once.
    """
    files: dict[Path, None] = {}
    faults: list[str] = []
    for pattern in patterns:
        found, absent = _resolve(pattern)
        files |= dict.fromkeys(found)
        if absent:
            more = f" and {len(absent) - 1} more of this pattern" if len(absent) > 1 else ""
            where = "" if absent[0] == pattern else f"{pattern}: "
            faults.append(f"{where}{_why(absent[0])}{more}{_similar(absent[0])}")
    return list(files), faults


def expand_remote(patterns: Iterable[str]) -> tuple[list[str], list[str]]:
    """The addresses of some remote patterns, and what is wrong with them; brace ranges alone can be written out."""
    addresses: dict[str, None] = {}
    faults: list[str] = []
    for pattern in patterns:
        if fault := fault_of(pattern):
            faults.append(f"{pattern}: {fault}")
        elif not pattern.startswith(PIPE) and "*" in pattern:
            faults.append(
                f"{pattern}: remote folders cannot be listed; write the range out, as in {{00000..00331}}.tar"
            )
        elif package := missing_package(pattern):
            faults.append(f"{pattern}: cannot be read here; {package}")
        else:
            names, fault = _braces(pattern)
            addresses |= dict.fromkeys(names)
            faults += [fault] if fault else []
    return list(addresses), faults


def shard_problems(patterns: Sequence[str]) -> list[Problem]:
    """The faults of `expand` or `expand_remote` for a Config."""
    remote = [pattern for pattern in patterns if is_remote(pattern)]
    if remote and len(remote) < len(patterns):
        return [Problem("shards", "has local files and remote ones", hint="make two sources of them")]
    return [Problem("shards", fault) for fault in (expand_remote(remote) if remote else expand(patterns))[1]]


def _resolve(pattern: str) -> tuple[list[Path], list[str]]:
    names, fault = _braces(str(Path(pattern).expanduser()))
    found: list[Path] = []
    absent: list[str] = [fault] if fault else []
    for name in names:
        matches = sorted(glob(name, recursive=True)) if has_magic(name) else [name]
        matches = [match for match in matches if not match.endswith(".index")]
        for match in matches or [name]:  # a pipe named like a tar would be waited for
            if Path(match).is_file():
                found.append(Path(match))
            else:
                absent.append(match)
    return found, absent


def _braces(pattern: str) -> tuple[list[str], str | None]:
    from braceexpand import braceexpand

    count = math.prod(abs(int(last) - int(first)) + 1 for first, last in RANGE.findall(pattern))
    if count > MOST_FILES:
        return [], f"{pattern} (means {count:,} files, expected at most {MOST_FILES:,}; a digit too many?)"
    try:
        return list(braceexpand(pattern)), None
    except ValueError as error:
        return [], f"{pattern} ({error})"


def _why(name: str) -> str:
    path = Path(name)
    if path.is_dir():
        return f"{name} is a folder; name the tars in it: {path / '*.tar'}"
    if path.is_symlink() and not path.exists():
        return f"{name} is a link to what is not there"
    return f"{name} is a pipe or a device, no file" if path.exists() else f"there is no {name}"


def _similar(name: str) -> str:
    if os.path.lexists(name):
        return ""
    folder = Path(name).parent
    if not folder.is_dir():
        return f"; the folder {folder} does not exist"
    guess = nearest(Path(name).name, (item.name for item in folder.iterdir()))
    return f"; did you mean {folder / guess}?" if guess and not has_magic(name) else ""
