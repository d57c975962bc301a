"""Arrays in .npy files: numbers alone, never pickled objects."""

from __future__ import annotations

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
             damaged file
    """
    values = np.load(opened(ref), allow_pickle=False, mmap_mode=None if isinstance(ref, bytes) else "r")
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "buif":
        raise MediaError(f"it holds {getattr(values, 'dtype', type(values).__name__)}, expected numbers")
    if values.size > most:
        raise MediaError(f"it has {values.size / 1e6:.1f} million values, {most / 1e6:g} million are allowed")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise MediaError("it holds values that are not numbers (nan, inf)")
    return np.array(values)
