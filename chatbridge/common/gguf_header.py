"""The header of a GGUF file: its settings and the names, shapes and types of its tensors. No weights are read.

layout   "GGUF", version u32, number of tensors u64, number of settings u64, then the settings (key, type, value), the
         tensors (name, shape with the fastest dimension first, type u32, offset u64), and the values, aligned
source   ggml-org/ggml: docs/gguf.md; versions 2 and 3, little-endian
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from chatbridge.common.file_kind import head_of, other_kind
from chatbridge.common.gguf_kind import GGUF

VERSIONS = (2, 3)
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor of a file.

    shape    as torch has it: rows first
    kind     ggml's number of its type: 0 F32, 1 F16, 8 Q8_0 and so on
    start    of its values, bytes from the beginning of the file
    """

    shape: tuple[int, ...]
    kind: int
    start: int

    @property
    def num_values(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class GGUFHeader:
    """Settings by key and tensors by name, both in the order of the file."""

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]

    @property
    def family(self) -> str:
        """llama.cpp's name of the model family, general.architecture."""
        return str(self.fields.get("general.architecture", ""))

    def of_family(self, key: str, default: Any = None) -> Any:
        """A setting of the model: `of_family("block_count")` is that of llama.block_count."""
        return self.fields.get(f"{self.family}.{key}", default)

    @property
    def tokens(self) -> list[str]:
        return list(self.fields.get("tokenizer.ggml.tokens") or ())


def read_header(path: Path) -> GGUFHeader:
    """The header of a file, remembered until the file changes.

    raises   ValueError when it is missing, not GGUF, of another byte order or version, or ends within its header
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return _read(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _read(path: Path, size: int, changed_ns: int) -> GGUFHeader:
    try:
        head = head_of(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if head[:4] != GGUF:
        what = other_kind(head, path) or f"begins with {head[:4]!r}"
        raise ValueError(f"{path} is not a GGUF file, it {what}; expected {GGUF!r} in the beginning")
    if len(head) < 24:
        raise ValueError(f"{path}: the file ends after {len(head)} bytes, within its header; download it again")
    version = int.from_bytes(head[4:8], "little")
    if version not in VERSIONS:
        swapped = int.from_bytes(head[4:8], "big")
        what = "is big-endian" if swapped in VERSIONS else f"is of version {version}"
        raise ValueError(f"{path} {what}; little-endian files of version 2 and 3 are read: convert it with llama.cpp")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            return _parsed(path, _Reader(content, size))
        except (_Ended, struct.error, OverflowError):
            raise ValueError(
                f"{path}: the file of {size:,} bytes ends within its header, so it is truncated or damaged; download "
                "it again"
            ) from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: its header is damaged: text that is not UTF-8 ({error.reason})") from None


class _Ended(Exception):
    """The file has fewer bytes than its header says."""


class _Reader:
    """Values of a file in order; every length is checked against the bytes that are left."""

    def __init__(self, content: mmap.mmap, size: int) -> None:
        self.content, self.size, self.place = content, size, 4

    def numbers(self, form: str, count: int = 1) -> tuple[Any, ...]:
        width = struct.calcsize(f"<{form}")
        self._need(count * width)
        found = struct.unpack_from(f"<{count}{form}", self.content, self.place)
        self.place += count * width
        return found

    def text(self) -> str:
        (length,) = self.numbers("Q")
        self._need(length)
        start, self.place = self.place, self.place + length
        return self.content[start : self.place].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            (inner,), (count,) = self.numbers("I"), self.numbers("Q")
            self._need(count)  # an item has a byte at least
            return list(self.numbers(_form(inner), count)) if inner != _STRING else [self.text() for _ in range(count)]
        return self.numbers(_form(kind))[0]

    def _need(self, num_bytes: int) -> None:
        if self.place + num_bytes > self.size:
            raise _Ended


def _form(kind: int) -> str:
    if kind not in _FORMATS:
        raise ValueError(f"its header is damaged, or newer than this reader: a setting has the type {kind}")
    return _FORMATS[kind]


def _parsed(path: Path, reader: _Reader) -> GGUFHeader:
    reader.numbers("I")  # version
    num_tensors, num_fields = reader.numbers("Q", 2)
    fields: dict[str, Any] = {}
    for _ in range(num_fields):
        key = reader.text()
        try:
            fields[key] = reader.value(reader.numbers("I")[0])
        except ValueError as error:
            raise error if isinstance(error, UnicodeDecodeError) else ValueError(f"{path}: {error}") from None
    found: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(num_tensors):
        name = reader.text()
        (dimensions,) = reader.numbers("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"{path}: its header is damaged: {name!r} has {dimensions} dimensions")
        shape = tuple(reversed(reader.numbers("Q", dimensions)))
        found[name] = shape, *reader.numbers("I"), *reader.numbers("Q")
    align = fields.get("general.alignment", 32)
    if not isinstance(align, int) or align < 1:
        raise ValueError(f"{path}: its header is damaged: general.alignment is {align!r}")
    start = -(-reader.place // align) * align
    tensors = {name: GGUFTensor(shape, kind, start + offset) for name, (shape, kind, offset) in found.items()}
    return GGUFHeader(path, fields, tensors)
