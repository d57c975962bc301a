"""Arrays in .npy files: numbers alone, never pickled objects."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from chatbridge.common.errors import MediaError
from chatbridge.processors.media_source import head_of, opened

SIGN = b"\x93NUMPY"


def is_array_file(ref: str | Path | bytes) -> bool:
    """Whether the first bytes are those of a .npy file."""
    return head_of(ref, len(SIGN)) == SIGN


def read_array(ref: str | Path | bytes, most: int) -> np.ndarray:
    """The array of a .npy file: bool, whole numbers or floats.

    most     values that are allowed
    raises   MediaError for more values, for other types, and for values that are not numbers; what numpy raises for a
             damaged header
    """
    _check_header(ref, most)
    values = np.load(opened(ref), allow_pickle=False, mmap_mode=None if isinstance(ref, bytes) else "r")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise MediaError("it holds values that are not numbers (nan, inf)")
    return np.array(values)


def _check_header(ref: str | Path | bytes, most: int) -> None:
    """raises MediaError for a type or a number of values that is not read; memory is not taken before"""
    content = opened(ref)
    with open(content, "rb") if isinstance(content, str) else content as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        begin = file.tell()
        there = file.seek(0, os.SEEK_END) - begin
    if dtype.hasobject:
        raise MediaError("it holds Python objects (pickle), which are never loaded; save an array of numbers")
    if dtype.kind not in "buif":
        raise MediaError(f"it holds {dtype}, expected numbers")
    if (size := math.prod(shape)) > most:
        raise MediaError(f"it has {size / 1e6:,.1f} million values, {most / 1e6:g} million are allowed")
    if there < size * dtype.itemsize:
        raise MediaError(f"it ends after {there:,} of {size * dtype.itemsize:,} bytes of values: the file is cut off")
