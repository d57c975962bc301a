"""Captioning: a caption is correct if it mentions every required attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatbridge.tasks.base import TASKS, Task, TaskConfig
from chatbridge.tasks.metrics.text import exact_match, named


@TASKS.register("captioning")
class Captioning(Task):
    """Scores of a caption: `names_all`, whether it mentions every attribute of the annotation's list; `recall`, the
    fraction of them that it mentions; `exact_match`.

    An attribute may be a list of synonyms: ["red", ["circle", "disc"]]. Without a list in the annotation, exact_match
    is the headline score and the other two are absent.
    """

    main_metric = "names_all"

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 48  # length of the longest caption
        must_name: str = "must_name"  # annotation field with the attributes that a caption must mention

    config: Config

    def score(self, answer: str, references: Sequence[str], details: Mapping[str, Any]) -> dict[str, float]:
        scores = {"exact_match": float(exact_match(answer, references))} if references else {}
        if attributes := details.get(self.config.must_name):
            hits = [any(named(answer, [item] if isinstance(item, str) else item)) for item in attributes]
            scores = {"names_all": float(all(hits)), "recall": sum(hits) / len(hits), **scores}
        return scores
