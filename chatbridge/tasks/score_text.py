"""Scores, their differences and intervals as text: fractions and percents as percent, other numbers as they are."""

from __future__ import annotations

import math
import sys
from typing import Any

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


def interval_text(low: float | None, high: float | None, unit: str = "fraction") -> str:
    """ "[59.9, 62.8]"; "" where it is not known."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    digits = 1 if is_percent(unit) else 3
    shown = (round(in_unit(bound, unit), digits) + 0.0 for bound in (low, high))  # -0.0 + 0.0 is 0.0
    return f"[{', '.join(f'{bound:.{digits}f}' for bound in shown)}]"


def difference_text(value: float | None, unit: str = "fraction", digits: int = 2) -> str:
    """With its sign, in points of percent or in the unit: "+2.13"; digits as in `score_text`"""
    if value is None or math.isnan(value):
        return UNKNOWN
    shown = digits if is_percent(unit) else digits + 2
    return f"{round(in_unit(value, unit), shown) + 0.0:+.{shown}f}"  # -0.0 + 0.0 is 0.0


def difference_interval_text(low: float | None, high: float | None, unit: str = "fraction", digits: int = 2) -> str:
    """ "[-0.42, +4.71]"; a dash where it is not known."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return UNKNOWN
    return f"[{difference_text(low, unit, digits)}, {difference_text(high, unit, digits)}]"


def p_text(p: float) -> str:
    """ "0.031", "< 0.001" """
    if math.isnan(p):
        return UNKNOWN
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def known(value: float) -> float | None:
    """A number for JSON, which has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def is_score(value: Any) -> bool:
    """Whether a value of a file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
