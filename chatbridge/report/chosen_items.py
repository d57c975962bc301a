"""The worst, the best and some random items of a task, by the score of each item alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.seeds import stream
from chatbridge.report.runs import TaskRun
from chatbridge.tasks import Prediction
from chatbridge.tasks.mmbench import OF_COPY
from chatbridge.tasks.score_text import is_score
from chatbridge.tasks.scores_file import read_scores, scores_path

ITEMS = 3  # of each kind
SEED = 0  # of the random ones, the same in every report


@dataclass(frozen=True)
class ChosenItems:
    """Items of one task, disjoint. A task whose items all have the same score has neither worst nor best."""

    task: TaskRun
    worst: tuple[Prediction, ...]
    random: tuple[Prediction, ...]
    best: tuple[Prediction, ...]


class ScoresFile:
    """What scores_<task>.json tells beside the values; empty for earlier versions and damaged files."""

    def __init__(self, task: TaskRun) -> None:
        self._task = task

    @cached_property
    def _content(self) -> Mapping[str, Any]:
        if self._task.folder is None or not (path := scores_path(self._task.folder, self._task.name)).is_file():
            return {}
        try:
            return read_scores(path)
        except DataError:
            return {}

    @property
    def higher_is_better(self) -> bool:
        info = self._content.get("score_info")
        own = info.get(self._task.metrics.get("metric")) if isinstance(info, dict) else None
        return bool(own.get("higher_is_better", True)) if isinstance(own, dict) else True

    @property
    def unreadable(self) -> dict[str, int]:
        """Reason -> how many items have no answer because of it."""
        found = self._content.get("unreadable")
        return (
            {str(name): int(count) for name, count in found.items() if is_score(count)}
            if isinstance(found, dict)
            else {}
        )


def item_score(task: TaskRun, row: Mapping[str, Any]) -> float | None:
    """The headline score of one item; None if it has none alone. A copy of a question of MMBench has its own."""
    own = row["scores"]
    value = own.get(task.metrics.get("metric"), own.get(OF_COPY))
    return float(value) if is_score(value) else None


def chosen_items(task: TaskRun, count: int = ITEMS, higher_is_better: bool = True) -> ChosenItems:
    """The items of a task to look at. Unreadable items are left out: they have no answer.

    Among items of the same score, and for the random ones, a fixed seed decides, so that they are not the first of the
    file, which are often alike.
    """
    rows = [row for row in task.rows if "problem" not in row]
    order = stream(SEED, "items of the report").permutation(len(rows)).tolist()
    shuffled = [rows[at] for at in order]
    scored = [(value, row) for row in shuffled if (value := item_score(task, row)) is not None]
    if not scored:
        return ChosenItems(task, (), tuple(shuffled[:count]), ())
    sign = 1.0 if higher_is_better else -1.0
    ranked = sorted(scored, key=lambda one: sign * one[0])
    lowest, highest = ranked[0][0], ranked[-1][0]
    worst = [row for value, row in ranked[:count] if value != highest]
    best = [row for value, row in ranked[::-1][:count] if value != lowest and not _holds(worst, row)]
    others = [row for row in shuffled if not _holds([*worst, *best], row)]
    return ChosenItems(task, tuple(worst), tuple(others[:count]), tuple(best))


def _holds(rows: Sequence[Prediction], row: Prediction) -> bool:
    return any(one is row for one in rows)
