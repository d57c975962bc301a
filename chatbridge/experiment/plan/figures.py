"""Figures of a plan as text: numbers of things, operations, and tables of them."""

from __future__ import annotations

Rows = list[list[str]]


def short_count(values: int) -> str:
    """A number of values with its unit: 6.7 B, 23.5 M, 512; - for none"""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if values >= size:
            return f"{values / size:.1f} {unit}"
    return str(values) if values else "-"


def tera(operations: float) -> str:
    """10^12 operations; - for none"""
    return f"{operations / 1e12:,.4g}" if operations else "-"


def aligned(rows: Rows, left: tuple[int, ...] = (0,)) -> str:
    """Lines of a table with a heading; all rows but the heading are indented by two."""
    rows = [rows[0], *([f"  {row[0]}", *row[1:]] for row in rows[1:])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) if at in left else cell.rjust(width)
                 for at, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
