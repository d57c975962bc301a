"""Broken and odd files as they turn up in real data, made by `python -m tests.torture FOLDER`.

Every file says what has to happen: it is read and looks (or sounds) right, or it is refused with words a person
understands. Files whose damage may or may not be seen (a flipped bit in the middle) may do either, but never hang,
crash, or read as something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Odd:
    """One file.

    write   makes it at a path
    reads   True: must be read; False: must be refused; None: either
    says    what the reason must mention when it is refused
    marks   what the reader must find when it reads: corners of a picture, the pitch of a tone ...
    """

    name: str
    write: Callable[[Path], object]
    reads: bool | None = True
    says: str = ""
    marks: str = ""


def write_all(folder: Path, odds: Iterable[Odd]) -> dict[str, Path]:
    """Name -> path of every file, written now."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for odd in odds:
        paths[odd.name] = folder / odd.name
        paths[odd.name].parent.mkdir(parents=True, exist_ok=True)
        odd.write(paths[odd.name])
    return paths


def changed(content: bytes, at: float, replacement: bytes) -> bytes:
    """The same bytes with some others written over them, `at` as a share of the length."""
    start = int(len(content) * at)
    return content[:start] + replacement + content[start + len(replacement) :]
