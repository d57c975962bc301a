"""Read the tensors of a model.bin of CTranslate2 (binary version 6).

The layout, little-endian: version, name and revision of the specification; the number of variables; for each one its
name, rank, sizes, type and the bytes of its values; then the aliases, pairs of names. A text is its length with the
final zero byte, then the bytes. Source: `ModelSpec.save` of CTranslate2's Python package.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError

VERSION = 6
DTYPES: Mapping[int, type[np.generic]] = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
BFLOAT16 = 5  # read as float32, whose upper half it is
MOST_RANK = 8
NAME = "model.bin"  # in a folder of CTranslate2
PICKLES = (b"PK", b"\x80")  # first bytes of what torch saves, often under the same name


@dataclass
class Ct2File:
    """Variables of a file by name, views of its bytes.

    specification   name of the model's class there, such as WhisperSpec
    """

    specification: str
    revision: int
    variables: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)


def ct2_of(path: Path) -> Path | None:
    """The model.bin of a folder, or the file itself, when it begins as CTranslate2 writes; otherwise None."""
    file = path / NAME if path.is_dir() else path
    if file.suffix != ".bin" or not file.is_file():
        return None
    with file.open("rb") as opened:
        head = opened.read(64)
    if head.startswith(PICKLES) or len(head) < 8:
        return None
    version, length = struct.unpack("<IH", head[:6])
    name = head[6 : 6 + length]
    return file if version < 256 and name.endswith(b"\0") and name[:-1].isalnum() else None


def read_ct2(path: Path) -> Ct2File:
    """The variables of a file.

    raises   DataError for another version, a type that is not known, or a file that ends early
    """
    cursor = _Cursor(path, path.read_bytes())
    version = cursor.number("I")
    if version != VERSION:
        raise DataError(f"{path}: CTranslate2 model of binary version {version}, only {VERSION} is read here")
    file = Ct2File(cursor.text(), cursor.number("I"))
    for _ in range(cursor.number("I")):
        name = cursor.text()
        file.variables[name] = cursor.values(name)
    for _ in range(cursor.number("I")):
        alias, name = cursor.text(), cursor.text()
        if name not in file.variables:
            raise DataError(f"{path}: {alias!r} stands for {name!r}, which the file does not have")
        file.variables[alias] = file.variables[name]
    if left := len(cursor.content) - cursor.at:
        raise DataError(f"{path}: {left} bytes follow the last entry; the file is damaged")
    return file


@dataclass
class _Cursor:
    path: Path
    content: bytes
    at: int = 0

    def take(self, count: int) -> bytes:
        part = self.content[self.at : self.at + count]
        if len(part) < count:
            raise DataError(
                f"{self.path}: ends at byte {len(self.content)}, {count} bytes were expected from {self.at}; "
                "download it again"
            )
        self.at += count
        return part

    def number(self, kind: str) -> int:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0]

    def text(self) -> str:
        return self.take(self.number("H")).rstrip(b"\0").decode("utf-8", "replace")

    def values(self, name: str) -> np.ndarray[Any, Any]:
        rank = self.number("B")
        if rank > MOST_RANK:
            raise DataError(f"{self.path}: {name!r} has {rank} axes; this is no model of CTranslate2")
        shape = tuple(self.number("I") for _ in range(rank))
        kind, size = self.number("B"), self.number("I")
        if kind not in (*DTYPES, BFLOAT16):
            raise DataError(f"{self.path}: {name!r} has the type {kind}, known are {[*sorted(DTYPES), BFLOAT16]}")
        stored = np.dtype(DTYPES.get(kind, np.uint16)).newbyteorder("<")
        if size != math.prod(shape) * stored.itemsize:
            raise DataError(f"{self.path}: {name!r} of shape {list(shape)} has {size // stored.itemsize} values")
        values = np.frombuffer(self.take(size), stored).reshape(shape)
        return (values.astype(np.uint32) << 16).view(np.float32) if kind == BFLOAT16 else values
