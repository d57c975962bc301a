"""Differences, intervals and chances of scores as text, as the report and the comparison show them."""

from __future__ import annotations

import math
from typing import Any

from chatbridge.tasks.score_text import UNKNOWN, in_unit, is_percent, score_text


def difference_text(value: float | None, unit: str = "fraction", digits: int = 2) -> str:
    """With its sign, in points of percent or in the unit: "+2.13"."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{in_unit(value, unit):+.{digits}f}" if is_percent(unit) else f"{value:+.{digits + 2}f}"


def interval_text(low: float | None, high: float | None, unit: str = "fraction") -> str:
    """ "[59.9, 62.8]"; "" where it is not known."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    digits = 1 if is_percent(unit) else 3
    return f"[{in_unit(low, unit):.{digits}f}, {in_unit(high, unit):.{digits}f}]"


def p_text(p: float) -> str:
    """ "0.031", "< 0.001" """
    if math.isnan(p):
        return UNKNOWN
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def known(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return None if math.isnan(value) else value


def is_score(value: Any) -> bool:
    """Whether a value of a file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


__all__ = ["difference_text", "interval_text", "is_percent", "is_score", "known", "p_text", "score_text"]
