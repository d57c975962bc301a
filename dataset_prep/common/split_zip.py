"""Read members of a zip archive that is split into several files, without joining them.

`zip -s` writes name.z01, name.z02, ... and name.zip last; WavCaps is distributed in this format. Python's zipfile does
not support it, and joining the parts (`zip -s- in.zip -O out.zip`) needs the disk space twice. The directory at the end
of the last part has the part and the offset of each member. A member may continue in the next part.
Layout: PKWARE's APPNOTE, sections 4.3 and 4.5.3 (zip64).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chatbridge.common.errors import DataError

END, END64, LOCATOR64, ENTRY, MEMBER = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
END_SIZE, LOCATOR_SIZE, ENTRY_SIZE, MEMBER_SIZE = 22, 20, 46, 30
MAX_COMMENT = 1 << 16
STORED, DEFLATED = 0, 8


@dataclass(frozen=True)
class ZipMember:
    """One file of the archive: the position of its header, and its compression."""

    name: str
    disk: int
    at: int
    method: int
    packed: int
    size: int
    crc: int


class SplitZip:
    """The members of name.zip and its parts name.z01, name.z02, ... in the same folder, or of a single zip.

    raises   DataError when a part is missing or the file is not a zip
    """

    def __init__(self, path: Path):
        self.path = path
        self.parts = [*_numbered(path), path]
        self.sizes = [part.stat().st_size for part in self.parts]
        try:
            self.members = {member.name: member for member in self._directory() if not member.name.endswith("/")}
        except DataError:
            raise
        except (ValueError, struct.error) as error:
            raise DataError(f"{path}: its directory is damaged ({error}); download it again") from None

    def read(self, name: str) -> bytes:
        """The bytes of a member. raises ValueError when they are damaged or the compression is not supported"""
        member = self.members[name]
        head = self._bytes(member.disk, member.at, MEMBER_SIZE)
        if len(head) < MEMBER_SIZE or head[:4] != MEMBER:
            raise ValueError(f"{self.path.name}: there is no header at the position of {name}")
        name_length, extra_length = struct.unpack("<HH", head[26:30])
        packed = self._bytes(member.disk, member.at + MEMBER_SIZE + name_length + extra_length, member.packed)
        content = _unpacked(packed, member.method)
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise ValueError(f"{self.path.name}: the content of {name} is damaged")
        return content

    def _directory(self) -> Iterator[ZipMember]:
        disk, at, size, count = self._end()
        content = self._bytes(disk, at, size)
        position = 0
        for _ in range(count):
            if content[position : position + 4] != ENTRY:
                raise DataError(f"{self.path}: its directory is damaged; download it again")
            (flags, method, crc, packed, full, name_length, extra_length, comment_length, disk, at) = struct.unpack(
                "<HH4xIIIHHHH6xI", content[position + 8 : position + ENTRY_SIZE]
            )
            start = position + ENTRY_SIZE
            name = content[start : start + name_length].decode("utf-8" if flags & 0x800 else "cp437")
            extra = content[start + name_length : start + name_length + extra_length]
            full, packed, at, disk = _wide(extra, full, packed, at, disk)
            yield ZipMember(name, disk, at, method, packed, full, crc)
            position = start + name_length + extra_length + comment_length

    def _end(self) -> tuple[int, int, int, int]:
        """Part, offset, size in bytes and number of entries of the directory."""
        last = len(self.parts) - 1
        start = max(0, self.sizes[last] - END_SIZE - MAX_COMMENT)
        tail = self._bytes(last, start, self.sizes[last] - start)
        found = tail.rfind(END)
        if found < 0:
            raise DataError(f"{self.path}: is not a zip, or its end is missing; download it again")
        mine, disk, count, size, at = struct.unpack("<HH2xHII", tail[found + 4 : found + 20])
        locator = tail[found - LOCATOR_SIZE : found] if found >= LOCATOR_SIZE else b""
        if locator[:4] == LOCATOR64:
            end_disk, end_at, disks = struct.unpack("<IQI", locator[4:])
            self._expect(disks - 1)
            wide = self._bytes(end_disk, end_at, 56)
            disk, count, size, at = struct.unpack("<I8xQQQ", wide[20:56])
        else:
            self._expect(mine)
        return disk, at, size, count

    def _expect(self, parts_before: int) -> None:
        if parts_before != len(self.parts) - 1:
            wanted = [self.path.with_suffix(f".z{number:02d}").name for number in range(1, parts_before + 1)]
            absent = [name for name in wanted if not (self.path.parent / name).is_file()]
            raise DataError(
                f"{self.path}: has {parts_before + 1} parts, found {len(self.parts)}; "
                f"missing in its folder: {', '.join(absent) or 'none, but there are parts of a different archive'}"
            )

    def _bytes(self, disk: int, at: int, size: int) -> bytes:
        """`size` bytes from an offset in a part, continued in the next parts."""
        pieces: list[bytes] = []
        while disk < len(self.parts) and at >= self.sizes[disk]:
            disk, at = disk + 1, at - self.sizes[disk]
        while size > 0:
            if disk >= len(self.parts):
                raise ValueError(f"{self.path.name}: ends too early")
            with self.parts[disk].open("rb") as stream:
                stream.seek(at)
                piece = stream.read(size)
            pieces.append(piece)
            disk, at, size = disk + 1, 0, size - len(piece)
        return b"".join(pieces)


def _numbered(path: Path) -> list[Path]:
    """name.z01, name.z02, ... name.z99, name.z100 in the order of their numbers."""
    numbers = {
        int(found[1]): part
        for part in path.parent.glob(f"{path.stem}.z*")
        if (found := re.fullmatch(r"\.z(\d{2,})", part.suffix))
    }
    return [numbers[number] for number in sorted(numbers)]


def _wide(extra: bytes, full: int, packed: int, at: int, disk: int) -> tuple[int, int, int, int]:
    """The values of an entry; those that do not fit are in its zip64 field, in this order."""
    field = _field(extra, 1)
    values = []
    for value, width in ((full, 8), (packed, 8), (at, 8), (disk, 4)):
        if field and value == (0xFFFF if width == 4 else 0xFFFFFFFF):
            value, field = int.from_bytes(field[:width], "little"), field[width:]
        values.append(value)
    full, packed, at, disk = values
    return full, packed, at, disk


def _field(extra: bytes, wanted: int) -> bytes:
    """The content of one extra field of an entry, empty if it has none of this kind."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack("<HH", extra[position : position + 4])
        if kind == wanted:
            return extra[position + 4 : position + 4 + size]
        position += 4 + size
    return b""


def _unpacked(packed: bytes, method: int) -> bytes:
    if method == STORED:
        return packed
    if method == DEFLATED:
        try:
            return zlib.decompress(packed, -zlib.MAX_WBITS)
        except zlib.error as error:
            raise ValueError(f"cannot be decompressed: {error}") from None
    raise ValueError(f"has compression method {method}, expected {STORED} or {DEFLATED}")
