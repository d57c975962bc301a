"""Questions with short answers: correct if equal to a reference up to case, punctuation and articles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatbridge.tasks.base import TASKS, Task, TaskConfig, confusion
from chatbridge.tasks.metrics.text import normalise
from chatbridge.tasks.scoring import Scored


@TASKS.register("vqa")
class VQA(Task):
    """Exact match, unless `metrics` names others; each group also has a confusion matrix."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 16  # length of the longest answer

        @property
        def default_metrics(self) -> Mapping[str, Mapping[str, Any]]:
            return {"exact_match": {}}

    def group_results(self, scored: Scored, is_whole: bool = True) -> dict[str, Any]:
        found = super().group_results(scored, is_whole)
        if is_whole or "exact_match" not in self.metrics:
            return found
        asked = [item for item in scored.items if item.references and item.problem is None]
        pairs = ((normalise(item.references[0]), normalise(item.prediction)) for item in asked)
        return {**found, "confusion": confusion(pairs)}
