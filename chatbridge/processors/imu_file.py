"""Files of motion: .npy arrays, and CSV tables with or without names of columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chatbridge.common.errors import MediaError
from chatbridge.processors.array_file import is_array_file, read_array
from chatbridge.processors.media_source import NotAccepted

CHANNELS = 6  # accelerometer x, y, z, gyroscope x, y, z
_MOST = 50_000_000  # values of a file
LARGEST = 1e6  # of a value, whatever its unit: integers of a sensor stay below
_SENSORS = ("acc", "gyr")  # how names of columns begin or what they contain: accl_x, accelerometer.x, gyro_z
_AXES = ("x", "y", "z")
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
_EXPECTED = "six columns (accelerometer x, y, z, gyroscope x, y, z), or seven with the time in seconds first"


@dataclass(frozen=True)
class Recording:
    """values float[6, steps]; times float[steps] in seconds, rising, or None where the file has none."""

    values: np.ndarray
    times: np.ndarray | None


def read_recording(ref: str | Path | bytes) -> Recording:
    """The recording of a file.

    .npy   float[6, steps] or float[steps, 6]; float[steps, 7] has the time in seconds first
    CSV    columns in that order, or in any order with names: accl_x, gyro_z ..., and a time such as timestamp_ms

    raises   MediaError for other columns, values that are not numbers, and times that do not rise
    """
    if is_array_file(ref):
        return _of_columns(_columns(read_array(ref, _MOST)))
    try:
        text = (ref if isinstance(ref, bytes) else Path(ref).read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NotAccepted("it is neither a CSV table nor a .npy array") from None
    rows = [row for row in csv.reader(io.StringIO(text), _dialect(text)) if any(cell.strip() for cell in row)]
    if not rows:
        raise MediaError("it holds no rows")
    has_names = any(re.search("[A-Za-z]", cell) and not _is_number(cell) for cell in rows[0])
    names = [cell.strip().lower() for cell in rows.pop(0)] if has_names else None
    table = _table(rows, 1 if names is None else 2)
    return _of_columns(table) if names is None else _of_names(table, names)


def _columns(values: np.ndarray) -> np.ndarray:
    """float[steps, 6 or 7] of an array."""
    if values.ndim == 2 and values.shape[1] in (CHANNELS, CHANNELS + 1):
        return values.astype(np.float64)
    if values.ndim == 2 and values.shape[0] == CHANNELS:
        return values.T.astype(np.float64)
    raise MediaError(f"it has shape {list(values.shape)}, expected {_EXPECTED}")


def _table(rows: Sequence[Sequence[str]], first: int) -> np.ndarray:
    """float[rows, columns]. first: number of the first row in the file, for messages"""
    if not rows:
        raise MediaError("it holds names of columns and no rows")
    try:
        table = np.array([[float(cell) for cell in row] for row in rows], dtype=np.float64)
    except ValueError:
        for number, row in enumerate(rows, first):
            if len(row) != len(rows[0]):
                raise MediaError(f"row {number} has {len(row)} columns, the first one {len(rows[0])}") from None
            if bad := next((cell for cell in row if not _is_number(cell)), None):
                raise MediaError(f"row {number} holds {bad[:40]!r}, expected a number") from None
        raise MediaError("it holds an empty cell, expected a number") from None
    return table


def _of_columns(table: np.ndarray) -> Recording:
    if table.ndim != 2 or table.shape[1] not in (CHANNELS, CHANNELS + 1):
        raise MediaError(f"it has {table.shape[-1]} columns, expected {_EXPECTED}")
    has_time = table.shape[1] == CHANNELS + 1
    return checked(table[:, has_time:].T, table[:, 0] if has_time else None)


def _of_names(table: np.ndarray, names: Sequence[str]) -> Recording:
    if len(names) != table.shape[1]:
        raise MediaError(f"it has {len(names)} names and {table.shape[1]} columns")
    picked = [_column(names, sensor, axis) for sensor in _SENSORS for axis in _AXES]
    at = next((number for number, name in enumerate(names) if re.match(r"(canonical_)?time|t$|t_", name)), None)
    times = None if at is None else table[:, at] * _UNITS.get(names[at].rpartition("_")[2], 1.0)
    return checked(table[:, picked].T, times)


def _column(names: Sequence[str], sensor: str, axis: str) -> int:
    """raises MediaError unless one name has the sensor and ends with the axis"""
    found = [n for n, name in enumerate(names) if sensor in name and re.search(rf"(^|[^a-z]){axis}$", name)]
    if len(found) != 1:
        raise MediaError(f"its columns are {', '.join(names)[:200]}; expected one such as {sensor}_{axis}")
    return found[0]


def checked(values: np.ndarray, times: np.ndarray | None) -> Recording:
    """The recording of values float[6, steps] at times float[steps].

    raises   MediaError for no steps, values that are not numbers or huge, and times that do not rise
    """
    if not values.shape[1]:
        raise MediaError("it holds no steps")
    if not np.isfinite(values).all() or (times is not None and not np.isfinite(times).all()):
        raise MediaError("it holds values that are not numbers (nan, inf)")
    if (largest := float(np.abs(values).max())) > LARGEST:
        raise MediaError(f"its values reach {largest:.1e}; expected accelerations in m/s^2 and rad/s")
    if times is not None and not (np.diff(times) > 0).all():
        step = int(np.argmax(np.diff(times) <= 0)) + 2
        raise MediaError(f"its times do not rise at step {step}")
    return Recording(values, times)


def _dialect(text: str) -> type[csv.Dialect] | csv.Dialect:
    line = text.lstrip().partition("\n")[0]

    class Table(csv.excel):
        delimiter = next((mark for mark in ";\t," if mark in line), " ")
        skipinitialspace = True

    return Table


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
