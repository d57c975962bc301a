"""Read the tensors of a model.bin of CTranslate2 (binary version 6).

The layout, little-endian: version, name and revision of the specification; the number of variables; for each one its
name, rank, sizes, type and the bytes of its values; then the aliases, pairs of names. A text is its length with the
final zero byte, then the bytes. Source: `ModelSpec.save` of CTranslate2's Python package.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError

VERSION = 6
DTYPES: Mapping[int, type[np.generic]] = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
MOST_RANK = 8


@dataclass
class Ct2File:
    """Variables of a file by name, views of its bytes.

    specification   name of the model's class there, such as WhisperSpec
    """

    specification: str
    revision: int
    variables: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)


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
        if kind not in DTYPES:
            raise DataError(f"{self.path}: {name!r} has the type {kind}, known are {sorted(DTYPES)}")
        values = np.frombuffer(self.take(size), np.dtype(DTYPES[kind]).newbyteorder("<"))
        if values.size != int(np.prod(shape)):
            raise DataError(f"{self.path}: {name!r} of shape {list(shape)} has {values.size} values")
        return values.reshape(shape)
