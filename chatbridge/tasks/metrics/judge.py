"""What a language model thinks of answers, from the file of grades that `chatbridge review grade` writes.

Asking costs money and may give another reply each time, so it is a step of its own; scoring reads its file, repeatably.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from chatbridge.common.errors import DataError, some
from chatbridge.common.safe_files import read_json_lines
from chatbridge.config.schema import Exists
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score

NAMES = ("judge_accuracy", "judge_score", "judge_nonsense")
HIGHEST = 5  # of a score
VERDICTS = {"yes": True, "true": True, "correct": True, "no": False, "false": False, "incorrect": False}
OBJECT = re.compile(r"\{[^{}]*\}")
AGAIN = "run `chatbridge review grade` with the same --out again"


@METRICS.register("judge")
class JudgeMetric(Metric):
    """The fraction of answers that the judge calls correct, and the mean of its scores from 0 to 5.

    A reply without a readable verdict counts as incorrect with score 0, and in `judge_nonsense`. An empty answer and an
    unreadable question are incorrect; the judge is not asked about them.
    """

    is_costly = True
    scores_later = True
    checks_alone = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        file: Annotated[Path, Exists()]  # grades, as `chatbridge review grade PREDICTIONS --out FILE` writes them

    config: Config

    lower_is_better = frozenset(NAMES[2:])

    @property
    def names(self) -> tuple[str, ...]:
        return NAMES

    def scores(self, items: Sequence[Item]) -> list[Score]:
        """The scores of NAMES. raises DataError if grades are missing, or are of other answers"""
        found = [self._verdict(item) for item in self._graded(items)]
        accuracy = mean_score(NAMES[0], [0.0 if one is None else float(one[0]) for one in found])
        grade = mean_score(NAMES[1], [0.0 if one is None else one[1] for one in found], unit="number")
        nonsense = mean_score(NAMES[2], [float(one is None) for one in found])
        return [accuracy, grade, nonsense]

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        """How many replies of the judge had no readable verdict."""
        count = sum(self._verdict(one) is None for one in self._graded(items))
        return {"nonsense of the judge": count} if count else {}

    def _graded(self, items: Sequence[Item]) -> list[tuple[Item, str | None]]:
        """Every item with the judge's reply; None where nothing was asked."""
        grades, asked = read_grades(self.config.file), [item for item in items if is_asked(item)]
        missing = [item.id for item in asked if item.id not in grades]
        if missing:
            raise DataError(
                f"{self.config.file}: has no grade of {len(missing)} of {len(asked)} answers: {some(missing)}; {AGAIN}"
            )
        others = [item.id for item in asked if grades[item.id]["prediction"] != item.prediction]
        if others:
            raise DataError(
                f"{self.config.file}: has grades of other answers to {len(others)} of {len(asked)} questions: "
                f"{some(others)}; {AGAIN} and --overwrite"
            )
        return [(item, grades[item.id]["content"] if is_asked(item) else None) for item in items]

    def _verdict(self, graded: tuple[Item, str | None]) -> tuple[bool, float] | None:
        """None for nonsense of the judge."""
        return (False, 0.0) if graded[1] is None else verdict(graded[1])


def is_asked(item: Item) -> bool:
    """Whether a judge is asked about an answer."""
    return item.problem is None and bool(item.prediction.strip()) and bool(item.references)


def verdict(content: str) -> tuple[bool, float] | None:
    """Whether the answer is correct, and its score from 0 to 5, of a reply {"correct": "yes", "score": 5}.

    Text around the object, single quotes and the key `pred`, which other prompts use, are accepted. None for anything
    else: no object, several that differ, another word, a score that is missing or outside 0 to 5.
    """
    found = {one for text in OBJECT.findall(content) if (one := _read(text)) is not None}
    return found.pop() if len(found) == 1 else None


def _read(text: str) -> tuple[bool, float] | None:
    value = _parsed(text)
    if not isinstance(value, Mapping):
        return None
    word = str(value.get("correct", value.get("pred", ""))).strip().lower()
    score = value.get("score")
    try:
        number = float(score) if isinstance(score, (int, float, str)) and not isinstance(score, bool) else -1.0
    except (ValueError, OverflowError):
        return None
    return (VERDICTS[word], number) if word in VERDICTS and 0 <= number <= HIGHEST else None


def _parsed(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, TypeError, MemoryError):
            continue
    return None


def read_grades(path: Path) -> dict[str, dict[str, Any]]:
    """Id -> its line, {"id", "prediction", "content"}. raises DataError for a file that has no grades"""
    try:
        lines = read_json_lines(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if lines.torn and not lines.records:
        raise DataError(f"{path}: line {lines.torn[0]} is no JSON object, so this is no file of grades; {AGAIN}")
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(lines.records, start=1):
        if not all(isinstance(row.get(name), str) for name in ("id", "prediction", "content")):
            raise DataError(
                f"{path}: line {number} is no grade, which has the texts id, prediction and content; "
                "`chatbridge review grade` writes them"
            )
        first = found.setdefault(row["id"], row)
        if (first["prediction"], first["content"]) != (row["prediction"], row["content"]):
            raise DataError(
                f"{path}: line {number} is another grade of {row['id']!r}; remove one of them, or {AGAIN} and "
                "--overwrite"
            )
    return found
