"""Means of the scores per category: strict and tolerant reading side by side, without unreadable reviews.

The released script averages an unreadable review in as -1; `released_summary` does too, for published numbers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import read_json_lines
from chatbridge.common.text_table import text_table
from chatbridge.review.scores import UNREADABLE, Scores, strict_scores, tolerant_scores

ALL = "all"
MOST_SHOWN = 20  # unreadable reviews that are printed


@dataclass(frozen=True)
class Review:
    """One reviewed question; scores are None where the reply has none that can be read.

    strict     those of the file, which a person may have corrected
    tolerant   read from the reply, unless they were corrected
    """

    question_id: str | int
    category: str
    head: str
    strict: Scores | None
    tolerant: Scores | None


@dataclass(frozen=True)
class Mean:
    """Mean scores of `count` reviews; `relative` is 100 * second / first. None where there is nothing to average."""

    count: int
    first: float | None = None
    second: float | None = None
    relative: float | None = None


@dataclass(frozen=True)
class CategoryMeans:
    """Both readings of one category."""

    reviews: int
    strict: Mean
    tolerant: Mean


def read_reviews(path: Path) -> list[Review]:
    """The reviews of a file of `chatbridge review judge` or of the released script. raises DataError"""
    try:
        lines = read_json_lines(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if lines.torn:
        raise DataError(f"{path}: {lines.note}; repeat the command that wrote it, which completes the file")
    if not lines.records:
        raise DataError(f"{path}: holds no reviews")
    found: dict[str, Review] = {}
    for number, record in enumerate(lines.records, start=1):
        review = _review(record, f"{path}, review {number}")
        if str(review.question_id) in found:
            raise DataError(f"{path}: question {review.question_id!r} is reviewed twice; remove one of its lines")
        found[str(review.question_id)] = review
    return list(found.values())


def _review(record: Mapping[str, Any], place: str) -> Review:
    if missing := [name for name in ("question_id", "category", "tuple") if name not in record]:
        raise DataError(
            f"{place}: has no {', '.join(map(repr, missing))}; expected a line of `chatbridge review judge`"
        )
    content, scores = record.get("content"), record["tuple"]
    numbers = [one for one in scores if isinstance(one, (int, float))] if isinstance(scores, list) else []
    if len(numbers) != 2:
        raise DataError(f"{place}: 'tuple' is {scores!r}, expected two numbers")
    given = (float(numbers[0]), float(numbers[1]))
    strict = None if given == UNREADABLE or not all(map(isfinite, given)) else given
    tolerant = strict
    if isinstance(content, str) and (strict is None or strict == strict_scores(content)):  # not corrected by hand
        tolerant = tolerant_scores(content)
    head = next((line.strip() for line in (content or "").splitlines() if line.strip()), "") if content else ""
    return Review(record["question_id"], str(record["category"]), head, strict, tolerant)


def means(reviews: Sequence[Review]) -> dict[str, CategoryMeans]:
    """category -> means, in the order of first appearance, then "all"."""
    groups: dict[str, list[Review]] = {}
    for review in reviews:
        groups.setdefault(review.category, []).append(review)
    groups[ALL] = list(reviews)
    return {
        name: CategoryMeans(
            len(group),
            _mean([one.strict for one in group if one.strict is not None]),
            _mean([one.tolerant for one in group if one.tolerant is not None]),
        )
        for name, group in groups.items()
    }


def _mean(scores: Sequence[Scores]) -> Mean:
    """Means rounded to 3 places and their ratio to 1, as released."""
    if not scores:
        return Mean(0)
    first, second = (round(sum(column) / len(scores), 3) for column in zip(*scores))
    return Mean(len(scores), first, second, round(100 * second / first, 1) if first else None)


def summary_text(reviews: Sequence[Review]) -> str:
    """The table of both readings, and the reviews that cannot be read."""
    head = ["category", "reviews", "read strictly", "answer 1", "answer 2", "2 in % of 1",
            "read tolerantly", "answer 1", "answer 2", "2 in % of 1"]  # fmt: skip
    rows = [
        [name, f"{one.reviews:,}", *_cells(one.strict), *_cells(one.tolerant)] for name, one in means(reviews).items()
    ]
    return "\n".join([text_table(head, rows), "", *_unreadable(reviews)])


def _cells(mean: Mean) -> list[str]:
    shown = ("-" if value is None else f"{value:.3f}" for value in (mean.first, mean.second))
    return [f"{mean.count:,}", *shown, "-" if mean.relative is None else f"{mean.relative:.1f}"]


def _unreadable(reviews: Sequence[Review]) -> list[str]:
    strict, tolerant = ([one for one in reviews if getattr(one, name) is None] for name in ("strict", "tolerant"))
    if not strict and not tolerant:
        return ["every review has readable scores"]
    lines = [f"unreadable: {len(strict)} strictly, {len(tolerant)} tolerantly; they are in no mean"]
    shown = [one for one in reviews if one.strict is None or one.tolerant is None]
    for one in shown[:MOST_SHOWN]:
        readings = (("strictly", one.strict), ("tolerantly", one.tolerant))
        read = "".join(f"  ({how} {both[0]:g} {both[1]:g})" for how, both in readings if both is not None)
        lines.append(f"  question {one.question_id} ({one.category}): {_short(one.head)!r}{read}")
    more = len(shown) - MOST_SHOWN
    return [*lines, *([f"  and {more} more"] if more > 0 else [])]


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def released_summary(reviews: Sequence[Review], name: str) -> str:
    """The released script's output, unreadable reviews averaged in as -1: for comparison with published numbers."""
    groups: dict[str, list[Scores]] = {}
    for review in reviews:
        for group in (review.category, ALL):
            groups.setdefault(group, []).append(review.strict or UNREADABLE)
    lines = [f"GPT-4 vs. {name}"]
    for group, scores in groups.items():
        mean = _mean(scores)
        lines.append(f"{group} {[mean.first, mean.second]} {'-' if mean.relative is None else mean.relative}")
    return "\n".join([*lines, "=" * 33]) + "\n"
