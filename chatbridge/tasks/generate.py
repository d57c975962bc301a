"""Generates answers to questions without references; there are no scores unless `metrics` names some."""

from __future__ import annotations

from dataclasses import dataclass

from chatbridge.tasks.base import TASKS, Task, TaskConfig


@TASKS.register("generate")
class Generate(Task):
    """Writes answers without scores. The data set must keep records without an answer: `unanswered: keep`."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 256  # length of the longest answer
