"""Questions with short answers: correct if equal to a reference up to case, punctuation and articles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatbridge.tasks.base import TASKS, Prediction, Task, TaskConfig, confusion
from chatbridge.tasks.metrics.text import exact_match, normalise


@TASKS.register("vqa")
class VQA(Task):
    """Exact match; each group also has a confusion matrix."""

    main_metric = "exact_match"

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 16  # length of the longest answer

    def score(self, answer: str, references: Sequence[str], details: Mapping[str, Any]) -> dict[str, float]:
        return {"exact_match": float(exact_match(answer, references))} if references else {}

    def _group(self, rows: Sequence[Prediction]) -> dict[str, Any]:
        pairs = [(normalise(row["references"][0]), normalise(row["answer"])) for row in rows if row["references"]]
        return {**super()._group(rows), "confusion": confusion(pairs)}
