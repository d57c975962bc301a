"""The samples of a tar and their positions, from one pass over its headers.

Files that share a name up to their ending are one sample (the webdataset layout; tars/sample_names.py has the rules for
names with dots). Of two images of one sample (0.jpg and 0.png), the ending that its modality lists first is used; a
second 0.jpg begins a second sample, called 0#2. Files that belong to no sample are counted, and the first of each kind
are kept by name. Hard and symbolic links are followed inside the same tar. Concatenated tars are read as one.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge.common.errors import DataError
from chatbridge.common.file_kind import head_of, other_kind
from chatbridge.datasets.tars.sample_names import (
    NO_FILE,
    SECOND,
    LeftOut,
    TarSample,
    index_columns,
    kind_of,
    resolve_samples,
    split_name,
)

WHOLE = -1  # value of `damage` for a sound tar, else the byte where it ends or is invalid
ABSENT, SPARSE, DANGLING, CUT_OFF = -1, -2, -3, -4  # values of `at` for members that have no bytes to read
MOST_HOPS = 8  # links to links


@cache
def row_type(key_bytes: int, num_slots: int) -> np.dtype[Any]:
    """The key, and for each slot the offset in the tar (below 0: no such file) and the size of its bytes."""
    return np.dtype([("key", f"S{key_bytes}"), ("at", "<i8", num_slots), ("size", "<i8", num_slots)])


def scan(tar: Path) -> tuple[NDArray[Any], int, LeftOut]:
    """One row per sample in order of appearance, the byte of the damage (or WHOLE), the files of no sample.

    Samples that are complete before the damage are kept; a file whose bytes are cut off fails when it is read.
    raises   DataError when the file is not a tar at all
    """
    samples: list[TarSample] = []
    dotted: list[TarSample] = []
    latest: dict[bytes, TarSample] = {}
    left, slots = LeftOut(), index_columns()
    links: list[tuple[TarSample, int, str]] = []
    walk = TarMembers(tar)
    for member in walk:
        found = split_name(member.name, slots)
        if found is None or not _is_file(member):
            left.add(kind_of(member.name) if found is None else NO_FILE, [_printable(member.name)])
            continue
        key, ending, has_dot = found
        slot, rank = slots.of[ending]
        sample = latest.get(key)
        if sample is None or sample.ending[slot] == ending:
            sample = latest[key] = TarSample.empty(key, ABSENT, len(slots.names))
            samples.append(sample)
            if has_dot:
                dotted.append(sample)
        elif (before := sample.ending[slot]) is not None:
            is_better = rank < slots.of[before][1]
            left.add(SECOND.format(slots.names[slot]), [f"{_printable(key)}.{before if is_better else ending}"])
            if not is_better:
                continue
        sample.ending[slot] = ending
        if member.isreg():
            sample.at[slot], sample.size[slot] = walk.place(member)
        else:
            links.append((sample, slot, member.name))
    if links:
        targets = _Targets(tar)
        for sample, slot, name in links:
            sample.at[slot], sample.size[slot] = targets.place(name)
    samples = resolve_samples(samples, dotted, latest, left, slots)
    width = max((len(sample.key) for sample in samples), default=1)
    rows = [(sample.key, sample.at, sample.size) for sample in samples]
    return np.array(rows, dtype=row_type(width, len(slots.names))), walk.damage, left


def _is_file(member: tarfile.TarInfo) -> bool:
    return member.isreg() or member.islnk() or member.issym()


def _printable(name: str | bytes) -> str:
    name = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
    return name.decode("utf-8", "replace")


class TarMembers:
    """The members of a tar except folders; `damage` is set after the iteration."""

    def __init__(self, tar: Path):
        self.path = tar
        self.damage = WHOLE
        self._bytes = 0

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        with open_tar(self.path) as archive:
            self._bytes = self.path.stat().st_size
            headers: list[tarfile.TarInfo] = vars(archive)["members"]  # cleared below, or tarfile keeps them all
            reached = 0
            try:
                while True:
                    while (member := archive.next()) is not None:
                        headers.clear()
                        if archive.offset <= reached:
                            raise tarfile.ReadError("a header that points backwards")
                        reached = archive.offset
                        if not member.isdir():
                            yield member
                    more = self._next_tar(archive.offset)
                    if more is None:
                        break
                    archive.offset = more
            except (tarfile.TarError, ValueError, OverflowError, RecursionError):
                self.damage = min(max(archive.offset, reached), self._bytes)
            except OSError as error:  # of the disk or the network, not of the tar: an index must not keep it
                raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None

    def place(self, member: tarfile.TarInfo) -> tuple[int, int]:
        """Offset and size of the bytes of a file; both are checked, as a broken header may hold any size."""
        if member.issparse():
            return SPARSE, 0
        if member.size < 0 or member.offset_data + member.size > self._bytes:
            return CUT_OFF, 0
        return member.offset_data, member.size

    def _next_tar(self, offset: int) -> int | None:
        """Offset of the next tar (`cat a.tar b.tar`), None without one. tarfile takes a broken header or the end of the
        file for the end of the tar; a real end is a block of zeros."""
        with self.path.open("rb") as stream:
            stream.seek(offset)
            block = stream.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
                self.damage = min(offset, self._bytes)
                return None
            while block and not block.strip(b"\0"):
                offset += len(block)
                block = stream.read(tarfile.RECORDSIZE)
        ahead = len(block) - len(block.lstrip(b"\0"))  # a header begins with a file name
        return offset + ahead // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE if block else None


class _Targets:
    """The targets of the links of a tar; a second pass that only tars with links need."""

    def __init__(self, tar: Path):
        self._known: dict[str, tuple[int, int] | str] = {}  # name -> offset and size, or the target of a link
        walk = TarMembers(tar)
        for member in walk:
            name = posixpath.normpath(member.name)
            if not _is_file(member):
                continue
            if member.issym():
                self._known[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            else:
                self._known[name] = posixpath.normpath(member.linkname) if member.islnk() else walk.place(member)

    def place(self, name: str) -> tuple[int, int]:
        """Offset and size of the bytes that a link points at."""
        name = posixpath.normpath(name)
        for _ in range(MOST_HOPS):
            found = self._known.get(name, (DANGLING, 0))
            if isinstance(found, tuple):
                return found
            name = found
        return DANGLING, 0


def open_tar(tar: Path) -> tarfile.TarFile:
    """An open tar file. raises DataError that names what the file is instead of an uncompressed tar"""
    try:
        return tarfile.open(tar, "r:")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError):
        raise DataError(f"{tar}: cannot be read: it is not an uncompressed tar; {_guess(tar)}") from None
    except OSError as error:
        raise DataError(f"{tar}: cannot be read: {error.strerror}") from None


def _guess(tar: Path) -> str:
    head = head_of(tar)
    if head.lstrip()[:1] in (b"{", b"["):
        return "it is a JSON text, so the download failed"
    if head[257:262] != b"ustar" and (what := other_kind(head, tar)) is not None:
        return f"it {what}"
    if head[257:262] == b"ustar" or len(head) < tarfile.BLOCKSIZE:
        return "it ends inside its first file, or its first header is broken"
    return "its first bytes are unknown"
