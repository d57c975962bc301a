"""Generates answers to questions without references; there are no scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatbridge.tasks.base import TASKS, Task, TaskConfig


@TASKS.register("generate")
class Generate(Task):
    """Writes answers without scores. The data set must keep records without an answer: `unanswered: keep`."""

    main_metric = ""

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 256  # length of the longest answer

    def score(self, answer: str, references: Sequence[str], details: Mapping[str, Any]) -> dict[str, float]:
        return {}
