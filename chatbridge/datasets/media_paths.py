"""From the name of a media file in an annotation to the file: the one way for all builders.

A name is taken as it is when a file has it. Otherwise the spellings are tried that copies between systems change:
`a\\b.jpg` of Windows, `~`, `file://`, letters with accents as one character or two (macOS), and the case of the ending.
Addresses (`https://`, `s3://`, `data:`) are refused with that reason: media are read from files.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from chatbridge.common.errors import MediaError

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://|(data):", re.IGNORECASE)
DRIVE = re.compile(r"[A-Za-z]:[\\/]")
LONGEST = 80  # characters of a name in a message


def media_path(root: Path, name: str) -> Path:
    """The file or folder that a name means, below `root` unless it is absolute; the plain path when nothing is there.

    raises   MediaError for an address, a path of Windows, and a name that no file can have
    """
    name = local_name(name)
    path = root / name
    if _is_there(path):
        return path
    return next((other for spelled in spellings(name) if _is_there(other := root / spelled)), path)


def local_name(name: str) -> str:
    """The name without `file://`. raises MediaError as `media_path` does"""
    if "\0" in name:
        raise MediaError(f"{_short(name)}: no file can have a zero character in its name")
    if ":" not in name:
        return name
    found = SCHEME.match(name)
    if found is None:
        if DRIVE.match(name):
            raise MediaError(f"{_short(name)}: is a path of Windows; write it relative to the folder of the media")
        return name
    scheme = (found[1] or found[2]).lower()
    if scheme != "file":
        raise MediaError(
            f"{_short(name)}: is an address ({scheme}), media are read from files: fetch it first, and name the file"
        )
    parts = urlsplit(name)
    if parts.netloc not in ("", "localhost"):
        raise MediaError(f"{_short(name)}: names a file of another machine ({parts.netloc})")
    return unquote(parts.path)


def spellings(name: str) -> Iterator[str]:
    """Other ways to write a name that mean the same file, the likeliest first."""
    seen = {name}
    bases = [name]
    if name.startswith("~"):
        with suppress(RuntimeError):  # no such user
            bases.append(str(Path(name).expanduser()))
    bases += [base.replace("\\", "/") for base in bases if "\\" in base]
    if not name.isascii():
        bases += [unicodedata.normalize(form, base) for form in ("NFC", "NFD") for base in bases]
    for base in bases:
        stem, dot, ending = base.rpartition(".")
        cased = [stem + dot + ending.lower(), stem + dot + ending.upper(), stem + dot + ending.capitalize()]
        for one in [base, *(cased if dot and "/" not in ending else [])]:
            if one not in seen:
                seen.add(one)
                yield one


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, a folder that may not be entered
        return False


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[:LONGEST]} ..."
