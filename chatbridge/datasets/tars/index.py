"""The side index of a tar: the position of every sample. A tar is scanned once and then read by index.

The index, `<name>.tar.index`, is a header, one row of fixed width per sample (see tars/scan.py), and a JSON object of
the files that belong to no sample. A row is read from the file when it is needed, so an open source holds a path and a
few numbers per shard, whatever its size. The index is made on first use, beside the tar or, if that folder is not
writable, in a cache folder, and again when size or time of the tar changed. Writing is atomic, so several processes may
do it at once: the last one wins with the same content.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatbridge.common.errors import DataError
from chatbridge.datasets.tars.sample_names import LeftOut, index_columns
from chatbridge.datasets.tars.scan import WHOLE, row_type, scan

MAGIC = b"CBTARIX6"  # the number increases when a scan finds different samples than before
HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("tar_size", "<i8"),
        ("tar_mtime_ns", "<i8"),
        ("count", "<i8"),
        ("key_bytes", "<i8"),
        ("damage", "<i8"),
        ("left_out", "<i8"),
        ("left_bytes", "<i8"),
    ]
)
HEADER_BYTES = HEADER.itemsize


@dataclass(frozen=True)
class TarIndex:
    """One indexed tar, small, with all that is needed to read a row.

    header     the first bytes of the index file; if they differ, another process has replaced the index
    left_out   number of files of the tar that belong to no sample; `left` lists them
    slots      the meaning of the columns of a row: the registered modalities, and the kinds of text
    """

    tar: Path
    file: Path
    header: bytes
    count: int
    key_bytes: int
    damage: int
    left_out: int = 0
    slots: tuple[str, ...] = field(default_factory=lambda: index_columns().names)

    def place(self, index: int) -> tuple[int, int]:
        """Offset and size in bytes of row `index` in the index file."""
        size = _codec(self.key_bytes, len(self.slots)).size
        return HEADER_BYTES + index * size, size

    def row(self, content: bytes) -> IndexRow:
        """A row from its bytes, as plain numbers: reading a numpy record takes ten times as long."""
        count = len(self.slots)
        values = _codec(self.key_bytes, count).unpack(content)
        return IndexRow(values[0].rstrip(b"\0"), values[1 : 1 + count], values[1 + count :])

    def rows(self) -> NDArray[Any]:
        """All rows, row_type[count], mapped from the file."""
        kind = row_type(self.key_bytes, len(self.slots))
        if not self.count:
            return np.empty(0, kind)
        return np.memmap(self.file, kind, "r", HEADER_BYTES, (self.count,))

    def left(self) -> LeftOut:
        """The files of the tar that belong to no sample, read from the index file."""
        found = LeftOut()
        if self.left_out:
            with self.file.open("rb") as stream:
                stream.seek(self.place(self.count)[0])
                found.update(json.loads(stream.read()))
        return found

    @property
    def fault(self) -> str | None:
        """What is wrong with the tar as a whole; None for a sound one."""
        if self.damage == WHOLE:
            return None if self.count else "holds no samples"
        if self.damage == self.tar.stat().st_size:
            return f"is damaged at byte {self.damage}, its premature end; {self.count} samples before it are used"
        return f"is damaged at byte {self.damage}; {self.count} samples before it are used"


class IndexRow(NamedTuple):
    """One sample: its key, and for each slot the offset (below 0: no such file) and size of its bytes."""

    key: bytes
    at: tuple[int, ...]
    size: tuple[int, ...]


@cache
def _codec(key_bytes: int, num_slots: int) -> struct.Struct:
    return struct.Struct(f"<{key_bytes}s{2 * num_slots}q")  # the fields of `row_type`


def open_index(tar: Path, cache_folder: Path | None = None) -> TarIndex:
    """The index of a tar, made now if it is missing or out of date.

    cache_folder  for indexes of tars in folders that are not writable; default: ~/.cache/chatbridge/tar_index
    raises        DataError when the tar cannot be read at all
    """
    found = find_index(tar, cache_folder)
    if found is not None:
        return found
    stamp = _stamp(tar)
    rows, damage, left = scan(tar)
    width, tail = rows.dtype["key"].itemsize, json.dumps(left.kinds).encode()
    header = np.array((MAGIC, *stamp, len(rows), width, damage, left.count, len(tail)), dtype=HEADER)
    file = _write(_places(tar, cache_folder), header.tobytes() + rows.tobytes() + tail)
    return TarIndex(tar, file, header.tobytes(), len(rows), width, damage, left.count)


def find_index(tar: Path, cache_folder: Path | None = None) -> TarIndex | None:
    """The index of a tar if it exists and is up to date."""
    stamp = _stamp(tar)
    for file in _places(tar, cache_folder):
        try:
            with file.open("rb") as stream:
                head = stream.read(HEADER_BYTES)
                length = os.fstat(stream.fileno()).st_size
        except OSError:
            continue
        if len(head) == HEADER_BYTES:
            header = np.frombuffer(head, HEADER)[0]
            if header["magic"] != MAGIC or (header["tar_size"], header["tar_mtime_ns"]) != stamp:
                continue
            count, width, damage, left_out = (
                int(header[name]) for name in ("count", "key_bytes", "damage", "left_out")
            )
            index = TarIndex(tar, file, head, count, width, damage, left_out)
            if length == index.place(index.count)[0] + header["left_bytes"]:
                return index
    return None


def _stamp(tar: Path) -> tuple[int, int]:
    try:
        state = tar.stat()
    except OSError as error:
        raise DataError(f"{tar}: cannot be read: {error.strerror}") from None
    return state.st_size, state.st_mtime_ns


def _places(tar: Path, cache_folder: Path | None) -> tuple[Path, Path]:
    if cache_folder is None:
        cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chatbridge" / "tar_index"
    mark = hashlib.blake2b(os.fsencode(tar.absolute()), digest_size=8).hexdigest()
    return tar.with_name(f"{tar.name}{index_ending()}"), cache_folder / f"{tar.name}.{mark}{index_ending()}"


def index_ending() -> str:
    """The suffix of index files: ".index", with a mark before it if modalities of plugins have files in tars, so that
    runs with and without the plugin keep separate indexes."""
    return f"{index_columns().mark}.index"


def _write(places: tuple[Path, ...], content: bytes) -> Path:
    """Write to the first writable place: a temporary file beside the target, then a rename."""
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
