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
    return int(number) if number is not None and math.isfinite(number) and number == int(number) else None


def _number(value: Any) -> float | int | None:
    """Return a number, also from quotes, but not nan; integers stay exact."""
    if isinstance(value, str):
        try:
            value = int(value) if value.lstrip("+-").isdecimal() else float(value)
        except ValueError:
            return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and not math.isnan(value) else None


def _float(value: Any) -> float | None:
    number = _number(value)
    return None if number is None else float(number)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _path(value: Any) -> Path | None:
    return found(Path(value).expanduser()) if isinstance(value, (str, Path)) and str(value) else None


SCALARS: dict[Any, Callable[[Any], Any]] = {bool: _boolean, int: _integer, float: _float, str: _text, Path: _path}
