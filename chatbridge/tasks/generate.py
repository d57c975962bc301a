"""Answers alone: the questions have no references, nothing is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatbridge.tasks.base import TASKS, Task, TaskConfig


@TASKS.register("generate")
class Generate(Task):
    """Writes the answers and no scores. The data set keeps records without an answer: `unanswered: keep`."""

    main_metric = ""

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 256  # longest answer

    def score(self, answer: str, references: Sequence[str], details: Mapping[str, Any]) -> dict[str, float]:
        return {}
