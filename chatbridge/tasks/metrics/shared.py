"""Scores that several answers have together: all questions about an image, all rotations of the options of a question.

The score of a group is 1 if every answer of it is correct. It is kept with the first row of the group, so a file of
predictions holds it, and means over rows count each group once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def add_group_scores(rows: Sequence[Row], group: Callable[[Row], Hashable], own: Sequence[str], shared: str) -> None:
    """Add the score `shared` to the first row of every group whose rows all have one of the scores `own`."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(group(row), []).append(row)
    for found in groups.values():
        scores = [row["scores"][name] for row in found for name in own if name in row["scores"]]
        if len(scores) == len(found):
            found[0]["scores"][shared] = float(min(scores))


def means(rows: Sequence[Row]) -> dict[str, float]:
    """Score name -> mean over the rows that have it, in the order of first appearance."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row["scores"].items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def measured(rows: Sequence[Row]) -> Mapping[str, int]:
    """Score name -> how many rows have it, for those that some rows lack."""
    counts: dict[str, int] = {}
    for name in (name for row in rows for name in row["scores"]):
        counts[name] = counts.get(name, 0) + 1
    return {name: count for name, count in counts.items() if count < len(rows)}
