"""From the name of a media file in an annotation to the file: `media_path` for paths, `find_media` for ids.

A name is used as it is when a file has it. Otherwise the spellings are tried that copies between systems change:
`a\\b.jpg` of Windows, `~`, `file://`, letters with accents as one character or two (macOS), and the case of the ending.
Addresses (`https://`, `s3://`, `data:`) are refused with that reason: media are read from files.

The places of `find_media` and their order are those of the reference's loader of MULTIS, with two repairs: an ending is
added to or replaced in the file's name only, never in its folder, and a file that does not exist is an error of that
sample instead of a silent replacement.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from urllib.parse import unquote, urlsplit

from chatbridge.common.errors import MediaError
from chatbridge.conversation.modalities import MODALITIES

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://|(data):", re.IGNORECASE)
DRIVE = re.compile(r"[A-Za-z]:[\\/]")
LONGEST = 80  # characters of a name in a message


def media_path(root: Path, name: str) -> Path:
    """The file or folder of a name, below `root` unless it is absolute; the plain path when nothing is there.

    raises   MediaError for an address, a path of Windows, and a name that no file can have
    """
    name = local_name(name)
    path = root / name
    if _exists(path):
        return path
    return next((other for spelled in spellings(name) if _exists(other := root / spelled)), path)


def find_media(folder: Path, names: str | Sequence[str], modality: str) -> Path:
    """The file (or folder of frames) of an id, often without its ending; of several names, the first that exists.

    The names are tried first as they are, since every look-up costs milliseconds on a network disk. Then in `folder`
    and in its sub-folder of the name's first two characters in lower case: the name as it is, with each ending of the
    modality added, with its own ending replaced; then all of it in the other spellings of the name.
    raises   MediaError that lists what was tried
    """
    names = [local_name(name) for name in ((names,) if isinstance(names, str) else names)]
    listed = [_candidates(place, name, modality) for name in names for place in (folder, folder / name[:2].lower())]
    for candidate in chain((folder / name for name in names), *listed, _respelled(folder, names, modality)):
        if _is_media(candidate, modality):
            return candidate
    endings = ", ".join(_endings(modality))
    wanted = " or ".join(map(repr, names))
    tried = (place for name in names for place in _candidates(folder, name, modality))
    odd = next((f"; {place.name!r} exists, but is not a file" for place in tried if os.path.lexists(place)), "")
    raise MediaError(f"no {modality} file for {wanted} in {folder} (tried it as it is and with {endings}){odd}")


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
            f"{_short(name)}: is an address ({scheme}), media are read from files: download it and name the file"
        )
    parts = urlsplit(name)
    if parts.netloc not in ("", "localhost"):
        raise MediaError(f"{_short(name)}: names a file of another machine ({parts.netloc})")
    return unquote(parts.path)


def spellings(name: str) -> Iterator[str]:
    """Other ways to write a name that mean the same file, the most likely first."""
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


def _respelled(folder: Path, names: Sequence[str], modality: str) -> Iterator[Path]:
    """The candidates with other spellings of the name, and with endings in capitals."""
    for spelled in chain.from_iterable((name, *spellings(name)) for name in names):
        for place in (folder, folder / spelled[:2].lower()):
            yield from _candidates(place, spelled, modality)
            path = place / spelled
            yield from (path.with_name(f"{Path(spelled).name}{ending.upper()}") for ending in _endings(modality))


def _candidates(place: Path, name: str, modality: str) -> Iterator[Path]:
    path = place / name
    yield path
    yield from (path.with_name(path.name + ending) for ending in _endings(modality))
    if path.suffix.lower() in _known_endings():
        yield from (path.with_suffix(ending) for ending in _endings(modality))


def _endings(modality: str) -> tuple[str, ...]:
    return tuple(f".{ending}" for ending in MODALITIES.get(modality).endings.lookup)


def _known_endings() -> frozenset[str]:
    """Those of every modality: an id may name a video where its audio is looked up."""
    return frozenset(f".{ending.lower()}" for one in MODALITIES for ending in one.endings.lookup)


def _is_media(path: Path, modality: str) -> bool:
    try:
        return path.is_file() or (MODALITIES.get(modality).in_folder and path.is_dir())
    except (OSError, ValueError):  # a name that is too long, a folder without permission
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[:LONGEST]} ..."
