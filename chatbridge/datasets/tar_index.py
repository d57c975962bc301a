"""A side index beside every tar: which sample lies where. Tars are read by index and scanned once.

Files of a tar that share a name up to the first dot are one sample (the webdataset layout). The index is one header
and one row of fixed width per sample, `<name>.tar.index`; a row is read from the file when it is asked for, so an open
source holds a path and a count per shard, whatever its size. It is made on first use, beside the tar or, where that
folder cannot be written, in a cache folder, and made anew when size or time of the tar changed. Writing is atomic, so
several processes may do it at once: the last one wins with the same content.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge.common.errors import DataError

ENDINGS = {
    "image": ("jpg", "jpeg", "png", "webp"),
    "video": ("mp4", "webm", "mkv", "avi", "mov"),
    "audio": ("wav", "flac", "mp3", "ogg", "m4a"),
    "txt": ("txt",),
    "json": ("json",),
}
SLOTS = tuple(ENDINGS)
SLOT_OF = {ending: slot for slot, endings in enumerate(ENDINGS.values()) for ending in endings}
MAGIC = b"CBTARIX1"
HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("tar_size", "<i8"),
        ("tar_mtime_ns", "<i8"),
        ("count", "<i8"),
        ("key_bytes", "<i8"),
        ("damage", "<i8"),
    ]
)
WHOLE = -1  # value of `damage` when the tar is sound, else the byte where it breaks off


@dataclass(frozen=True)
class TarIndex:
    """One indexed tar; small, and knows everything needed to read a row."""

    tar: Path
    file: Path
    count: int
    key_bytes: int
    damage: int

    @property
    def row_bytes(self) -> int:
        return row_type(self.key_bytes).itemsize

    def row_at(self, index: int) -> int:
        """Where row `index` starts in the index file."""
        return HEADER.itemsize + index * self.row_bytes


@cache
def row_type(key_bytes: int) -> np.dtype[Any]:
    """key, and for each of SLOTS where its bytes start in the tar (-1: there are none) and how many they are."""
    return np.dtype([("key", f"S{key_bytes}"), ("at", "<i8", len(SLOTS)), ("size", "<i8", len(SLOTS))])


def open_index(tar: Path, cache_folder: Path | None = None) -> TarIndex:
    """The index of a tar, made now if there is none or it is out of date.

    cache_folder  where indexes go that cannot stand beside their tar; default: ~/.cache/chatbridge/tar_index
    raises        DataError when the tar cannot be read at all
    """
    found = find_index(tar, cache_folder)
    if found is not None:
        return found
    stamp = _stamp(tar)
    rows, damage = scan(tar)
    header = np.array((MAGIC, *stamp, len(rows), rows.dtype["key"].itemsize, damage), dtype=HEADER)
    file = _write(_places(tar, cache_folder), header.tobytes() + rows.tobytes())
    return TarIndex(tar, file, len(rows), rows.dtype["key"].itemsize, damage)


def find_index(tar: Path, cache_folder: Path | None = None) -> TarIndex | None:
    """The index of a tar if there is one and it is up to date."""
    stamp = _stamp(tar)
    for file in _places(tar, cache_folder):
        try:
            with file.open("rb") as stream:
                head = stream.read(HEADER.itemsize)
                length = os.fstat(stream.fileno()).st_size
        except OSError:
            continue
        if len(head) == HEADER.itemsize:
            header = np.frombuffer(head, HEADER)[0]
            index = TarIndex(tar, file, int(header["count"]), int(header["key_bytes"]), int(header["damage"]))
            current = header["magic"] == MAGIC and (header["tar_size"], header["tar_mtime_ns"]) == stamp
            if current and length == index.row_at(index.count):
                return index
    return None


def scan(tar: Path) -> tuple[NDArray[Any], int]:
    """One row per sample in order of appearance, and the byte where the tar breaks off (or WHOLE).

    Samples that lie completely before the damage are kept; a file whose bytes are cut off fails when it is read.
    """
    samples: list[tuple[bytes, list[int], list[int]]] = []
    open_row: dict[bytes, int] = {}
    walk = _Walk(tar)
    for member in walk:
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        slot = SLOT_OF.get(ending.lower())
        if slot is None or not stem:
            continue
        key = f"{folder}/{stem}".lstrip("./").encode("utf-8", "surrogateescape")
        row = open_row.get(key)
        if row is None or samples[row][1][slot] >= 0:
            row = open_row[key] = len(samples)
            samples.append((key, [-1] * len(SLOTS), [0] * len(SLOTS)))
        samples[row][1][slot], samples[row][2][slot] = member.offset_data, member.size
    width = max((len(key) for key, _, _ in samples), default=1)
    return np.array([(key, at, size) for key, at, size in samples], dtype=row_type(width)), walk.damage


class _Walk:
    """The regular files of a tar; `damage` says afterwards where it broke off."""

    def __init__(self, tar: Path):
        self.path = tar
        self.damage = WHOLE

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        with _open(self.path) as archive:
            headers: list[tarfile.TarInfo] = vars(archive)["members"]  # tarfile would keep them all
            try:
                while (member := archive.next()) is not None:
                    headers.clear()
                    if member.isreg():
                        yield member
                self._look_at_end(archive.offset)
            except tarfile.TarError:
                self.damage = archive.offset

    def _look_at_end(self, offset: int) -> None:
        """tarfile takes a broken header for the end; a real end is a block of zeros or the end of the file."""
        with self.path.open("rb") as stream:
            stream.seek(offset)
            block = stream.read(tarfile.BLOCKSIZE)
        if block.strip(b"\0") or 0 < len(block) < tarfile.BLOCKSIZE or offset > self.path.stat().st_size:
            self.damage = offset


def _open(tar: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(tar, "r:")
    except tarfile.TarError:
        raise DataError(f"{tar}: cannot be read: it is not an uncompressed tar") from None
    except OSError as error:
        raise DataError(f"{tar}: cannot be read: {error.strerror}") from None


def _stamp(tar: Path) -> tuple[int, int]:
    try:
        state = tar.stat()
    except OSError as error:
        raise DataError(f"{tar}: cannot be read: {error.strerror}") from None
    return state.st_size, state.st_mtime_ns


def _places(tar: Path, cache_folder: Path | None) -> tuple[Path, Path]:
    if cache_folder is None:
        cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chatbridge" / "tar_index"
    mark = hashlib.blake2b(str(tar.absolute()).encode(), digest_size=8).hexdigest()
    return tar.with_name(f"{tar.name}.index"), cache_folder / f"{tar.name}.{mark}.index"


def _write(places: tuple[Path, ...], content: bytes) -> Path:
    """Write to the first place that takes it: a temporary file beside the target, then a rename."""
    error: OSError | None = None
    for place in places:
        try:
            if place is not places[0]:
                place.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
        except OSError as reason:
            error = reason
            continue
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, place)
            return place
        except OSError as reason:
            error = reason
            os.unlink(temporary)
    raise DataError(f"the index of a tar can be written neither to {places[0]} nor to {places[-1]}: {error}")
