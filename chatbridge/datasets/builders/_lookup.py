"""Where the media file of an annotation is: its id names a file or a folder of frames, often without an extension.

The rules and their order are those of the reference's loader of MULTIS, with two repairs: an extension is added to or
replaced in the file's name only, never in its folder, and a file that is not there is an error of that sample instead
of silence or another sample.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from chatbridge.common.errors import MediaError
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.media_paths import local_name, spellings


def find_media(folder: Path, names: str | Sequence[str], modality: str) -> Path:
    """The file (or folder of frames) that a name stands for; of several names, the first that is there.

    Tried first as they are, since every look costs milliseconds on a network disk. Then in `folder` and in its
    sub-folder of the name's first two characters in lower case: the name as it is, the name with each ending of the
    modality behind it, the name with its own ending replaced; then all of it in the other spellings of the name.
    raises   MediaError that says what was looked for
    """
    names = [local_name(name) for name in ((names,) if isinstance(names, str) else names)]
    ways = [_candidates(place, name, modality) for name in names for place in (folder, folder / name[:2].lower())]
    for candidate in chain((folder / name for name in names), *ways):
        if _is_there(candidate, modality):
            return candidate
    for candidate in _respelled(folder, names, modality):
        if _is_there(candidate, modality):
            return candidate
    endings = ", ".join(_endings(modality))
    wanted = " or ".join(map(repr, names))
    tried = (place for name in names for place in _candidates(folder, name, modality))
    odd = next((f"; {place.name!r} is there, but is no file" for place in tried if os.path.lexists(place)), "")
    raise MediaError(f"no {modality} file for {wanted} in {folder} (tried it as it is and with {endings}){odd}")


def _respelled(folder: Path, names: Sequence[str], modality: str) -> Iterator[Path]:
    """The same with other spellings of the name (datasets/media_paths.py) and endings in capitals."""
    for name in names:
        for spelled in (name, *spellings(name)):
            for place in (folder, folder / spelled[:2].lower()):
                yield from _candidates(place, spelled, modality)
                yield from (
                    (place / spelled).with_name(f"{Path(spelled).name}{end.upper()}") for end in _endings(modality)
                )


def _is_there(path: Path, modality: str) -> bool:
    try:
        return path.is_file() or (MODALITIES.get(modality).in_folder and path.is_dir())
    except (OSError, ValueError):  # a name that is too long, a folder that may not be entered
        return False


def _candidates(place: Path, name: str, modality: str) -> Iterator[Path]:
    path = place / name
    yield path
    yield from (path.with_name(path.name + ending) for ending in _endings(modality))
    if path.suffix.lower() in _known_endings():
        yield from (path.with_suffix(ending) for ending in _endings(modality))


def _endings(modality: str) -> tuple[str, ...]:
    return tuple(f".{ending}" for ending in MODALITIES.get(modality).endings.lookup)


def _known_endings() -> frozenset[str]:
    """Those of every modality: an id may name a video where the audio is looked up."""
    return frozenset(f".{ending.lower()}" for one in MODALITIES for ending in one.endings.lookup)
