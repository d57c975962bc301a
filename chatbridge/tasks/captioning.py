"""Captions: right is who names everything that must be named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatbridge.tasks.base import TASKS, Task, TaskConfig
from chatbridge.tasks.metrics.text import exact_match, named


@TASKS.register("captioning")
class Captioning(Task):
    """names_all: the caption has every word of the annotation's list; recall: the share of them it has; exact_match.

    A list item may itself be a list of ways to say the same: ["red", ["circle", "disc"]]. Without a list in the
    annotation exact_match sums the task up, and the other two are absent.
    """

    main_metric = "names_all"

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 48  # longest caption
        must_name: str = "must_name"  # field of the annotation with the words a caption must have

    config: Config

    def score(self, answer: str, references: Sequence[str], details: Mapping[str, Any]) -> dict[str, float]:
        scores = {"exact_match": float(exact_match(answer, references))} if references else {}
        if words := details.get(self.config.must_name):
            hits = [any(named(answer, [item] if isinstance(item, str) else item)) for item in words]
            scores = {"names_all": float(all(hits)), "recall": sum(hits) / len(hits), **scores}
        return scores
