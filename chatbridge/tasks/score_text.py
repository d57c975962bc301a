"""Scores as text, in their unit: fractions and percents as percent, other numbers as they are."""

from __future__ import annotations

import math

UNKNOWN = "–"


def is_percent(unit: str) -> bool:
    return unit in ("fraction", "percent")


def in_unit(value: float, unit: str) -> float:
    """The number that is shown: 61.4 for the fraction 0.614."""
    return 100 * value if unit == "fraction" else value


def score_text(value: float | None, unit: str = "fraction", digits: int = 1) -> str:
    """ "61.4%" or "0.931"; a dash where it is not known. digits: of a percentage, other numbers have two more"""
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{in_unit(value, unit):.{digits}f}%" if is_percent(unit) else f"{value:.{digits + 2}f}"
