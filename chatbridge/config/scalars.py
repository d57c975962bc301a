"""Read a scalar as a type. Each reader returns None if the value has another type."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chatbridge.config.shipped import found


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    if number is None or number in (math.inf, -math.inf):
        return None
    return int(number) if number == int(number) else None


def _number(value: Any) -> float | int | None:
    """Return a number, also from quotes, but not nan; integers stay exact."""
    if isinstance(value, str):
        try:
            value = int(value) if value.lstrip("+-").isdecimal() else float(value)
        except ValueError:
            return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and value == value else None  # nan differs from itself; integers have any length


def _float(value: Any) -> float | None:
    number = _number(value)
    try:
        return None if number is None else float(number)
    except OverflowError:  # an integer above the range of floats
        return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _path(value: Any) -> Path | None:
    return found(Path(value).expanduser()) if isinstance(value, (str, Path)) and str(value) else None


SCALARS: dict[Any, Callable[[Any], Any]] = {bool: _boolean, int: _integer, float: _float, str: _text, Path: _path}
