"""The two scores of a judge's reply, read as strictly as the released script does, and tolerantly.

The rules ask for "a single line containing only two values", and judges write "9, 8", "8/10 9/10" or "Assistant 1: 8".
Strict reading keeps published numbers comparable; tolerant reading loses fewer reviews. Neither guesses: a line with a
third number or with other words has no scores.
"""

from __future__ import annotations

import math
import re

Scores = tuple[float, float]  # of answer 1 and answer 2

UNREADABLE: Scores = (-1.0, -1.0)  # in the released files: a review whose scores cannot be read
LOWEST, HIGHEST = 0.0, 10.0  # of tolerant scores; the rules ask for 1 to 10, and judges give an empty answer 0
LABEL = re.compile(r"\b(?:the\s+)?(?:ai\s+)?(?:assistant|response|answer|model)\s*#?\s*([12])\b(?:'s)?", re.I)
NUMBER = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)(?:\s*/\s*10(?:\.0+)?\b|\s+out\s+of\s+10\b)?(?![\w/%]|\.\d)", re.I)
RANGE = re.compile(r"\d\s*[-–—]\s*\d")  # "8-9" is one score between two values, not two scores
FILLER = re.compile(r"(?:\b(?:overall|scores?|ratings?|points?|and|vs|versus|is|for)\b|[\W_])*", re.I)
BRACKETED = re.compile(r"\(.*\)|\[.*\]")


def strict_scores(content: str) -> Scores | None:
    """The scores as the released script reads them: the first line has exactly two numbers, separated by one blank or
    one comma. None where that script gives [-1, -1], and for numbers that are not finite."""
    pieces = content.split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = map(float, pieces)
    except ValueError:
        return None
    is_read = math.isfinite(first) and math.isfinite(second) and (first, second) != UNREADABLE
    return (first, second) if is_read else None


def tolerant_scores(content: str) -> Scores | None:
    """The scores of any usual spelling; None when there are not exactly two, or one is not between 0 and 10.

    They are read from the first line with text, from the first two (one score in each), or from a last line that is a
    tuple, which the rules for code and mathematics ask for.
    """
    lines = [line for line in content.splitlines() if re.search(r"\w", line)]
    if not lines:
        return None
    found = _scores_of(lines[0])
    if found is None and len(lines) > 1:
        found = _scores_of(f"{lines[0]} ; {lines[1]}")
    if found is None and BRACKETED.search(lines[-1]):
        found = _scores_of(lines[-1])
    return found


def _scores_of(line: str) -> Scores | None:
    """The scores of a line that holds two numbers, labels of the assistants and filler words only."""
    labels = LABEL.findall(line)
    rest = LABEL.sub("@", line)
    values = [float(value) for value in NUMBER.findall(rest)]
    if len(values) != 2 or labels not in ([], ["1", "2"], ["2", "1"]) or RANGE.search(rest):
        return None
    if not FILLER.fullmatch(NUMBER.sub(" ", rest)) or not all(LOWEST <= value <= HIGHEST for value in values):
        return None
    first, second = reversed(values) if labels == ["2", "1"] else values
    return first, second
