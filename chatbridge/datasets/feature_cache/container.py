"""Arrays in one file that can be memory-mapped: a checked head, then each array at a multiple of 64 bytes."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import errors_name_file, sync_to_disk

MAGIC = b"CBFEAT01"
ALIGNED = 64
PART = ".part"  # ending of a file that is being written


def write_container(path: Path, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write all of it under another name, then rename it. raises OSError that names the file

    head     JSON values
    arrays   name -> one axis each
    """
    part = path.with_name(f"{uuid.uuid4().hex[:12]}{PART}")
    shapes = {name: (array.dtype.str, len(array), _sha(array)) for name, array in arrays.items()}
    text = json.dumps({**head, "arrays": shapes}).encode()
    start = MAGIC + struct.pack("<Q", len(text)) + hashlib.sha256(text).digest() + text
    try:
        with errors_name_file(path), part.open("wb") as file:
            file.write(start)
            for array in arrays.values():
                file.write(b"\0" * (-file.tell() % ALIGNED if len(array) else 0))
                file.write(np.ascontiguousarray(array).data)
        sync_to_disk(part)
        os.replace(part, path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def read_container(path: Path, is_checked: bool = True) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The head and the memory-mapped arrays.

    is_checked   also compare the checksums of the arrays, which reads all of them
    raises       DataError when the file is missing, truncated, damaged, or of another kind
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC) + 40)
            length = struct.unpack_from("<Q", start, len(MAGIC))[0] if start.startswith(MAGIC) else 0
            text = file.read(length) if 0 < length <= os.fstat(file.fileno()).st_size else b""
            if len(start) < len(MAGIC) + 40 or hashlib.sha256(text).digest() != start[-32:]:
                raise DataError(f"{path}: is damaged: its head does not have its checksum")
            head = json.loads(text)
            arrays, at = {}, len(start) + length
            for name, (kind, count, sha) in head.pop("arrays").items():
                at += -at % ALIGNED if count else 0
                arrays[name] = _mapped(path, np.dtype(kind), at, count)
                at += arrays[name].nbytes
                if is_checked and _sha(arrays[name]) != sha:
                    raise DataError(f"{path}: is damaged: {name} do not have their checksum")
            return head, arrays
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is truncated or damaged ({error})") from None


def sync_folder(folder: Path) -> None:
    """Write the names of a folder through to the disk, where the system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _mapped(path: Path, kind: np.dtype[Any], at: int, count: int) -> np.ndarray:
    return np.memmap(path, dtype=kind, mode="r", offset=at, shape=(count,)) if count else np.empty(0, kind)


def _sha(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:32]
