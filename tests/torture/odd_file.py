"""Broken and odd files as they occur in real data, made by `python -m tests.torture FOLDER`.

Every file states the expected result: it is read correctly, or it is refused with an understandable message. Files
whose damage may or may not be noticed (a flipped bit in the middle) may do either, but never hang, crash, or read as
something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class OddFile:
    """One file.

    write    makes it at a path
    reads    True: must be read; False: must be refused; None: either
    message  text that the reason of a refusal must contain
    marks    content that a reader must find: corners of an image, the pitch of a tone ...
    """

    name: str
    write: Callable[[Path], object]
    reads: bool | None = True
    message: str = ""
    marks: str = ""


def write_all(folder: Path, odds: Iterable[OddFile]) -> dict[str, Path]:
    """Name -> path of every file, after writing them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for odd in odds:
        paths[odd.name] = folder / odd.name
        paths[odd.name].parent.mkdir(parents=True, exist_ok=True)
        odd.write(paths[odd.name])
    return paths


def changed(content: bytes, at: float, replacement: bytes) -> bytes:
    """The bytes with a part replaced, which begins at a share `at` of the length."""
    start = int(len(content) * at)
    return content[:start] + replacement + content[start + len(replacement) :]
