"""The contract of a task: conversations with known answers, and what an answer is worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from chatbridge.common.registry import Registry
from chatbridge.common.schema import Choice, Part, Range
from chatbridge.datasets.builders import BUILDERS, Dataset

Row = dict[str, Any]  # one line of predictions_*.jsonl: index, id, question, answer, references, scores, details


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What every task has."""

    dataset: Annotated[Choice[Dataset], Part(BUILDERS)]  # a builder with its settings; its weight is not used
    max_new_tokens: Annotated[int, Range(low=1)] = 32  # longest answer
    num_beams: Annotated[int, Range(low=1)] = 1  # 1: the most likely token each time
    batch_size: Annotated[int, Range(low=1)] = 16  # conversations per rank at a time
    drop_media: tuple[str, ...] = ()  # modalities taken out of the conversations (an ablation): [audio]
    group_by: tuple[str, ...] = ()  # fields of the annotation to report results by: [kind]


class Task(ABC):
    """Asks the last question of every conversation of a data set and scores the answers.

    config   the task's Config
    name     what the run calls this task
    raises   DataError when the data set cannot be used
    """

    config: TaskConfig
    main_metric: str  # the score that sums the task up

    def __init__(self, config: Any, name: str) -> None:
        self.config = config
        self.name = name
        self.dataset: Dataset = config.dataset.part(config.dataset.config, name)

    @abstractmethod
    def score(self, answer: str, references: Sequence[str], details: Mapping[str, Any]) -> dict[str, float]:
        """Scores between 0 and 1 of one answer.

        references  every answer that counts as right
        details     the annotation, for tasks that need more of it than the conversation shows
        """

    def metrics(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Means over all rows, and by the fields of `group_by`. A conversation that could not be read scores 0."""
        found = self._means(rows)
        found["unreadable"] = sum("problem" in row for row in rows)
        for field in self.config.group_by:
            groups: dict[str, list[Row]] = {}
            for row in rows:
                groups.setdefault(str(row["details"].get(field, "(none)")), []).append(row)
            found.setdefault("by", {})[field] = {key: self._group(groups[key]) for key in sorted(groups)}
        return found

    def _means(self, rows: Sequence[Row]) -> dict[str, Any]:
        names = dict.fromkeys(name for row in rows for name in row["scores"])
        means: dict[str, Any] = {name: sum(row["scores"].get(name, 0.0) for row in rows) / len(rows) for name in names}
        return {self.main_metric: 0.0, **means, "count": len(rows)}

    def _group(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The results of one group."""
        return self._means(rows)


def confusion(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """right answer -> given answer -> how often, both sorted"""
    table: dict[str, dict[str, int]] = {}
    for right, given in sorted(pairs):
        row = table.setdefault(right, {})
        row[given] = row.get(given, 0) + 1
    return table


TASKS: Registry[Task] = Registry("task", "chatbridge.tasks", besides=("metrics",))
