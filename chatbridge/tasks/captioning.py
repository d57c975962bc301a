"""Captioning: a caption is correct if it mentions every required attribute, unless `metrics` names other scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatbridge.tasks.base import TASKS, Task, TaskConfig


@TASKS.register("captioning")
class Captioning(Task):
    """Captions. Without a list of attributes in the annotation, exact_match is the headline of the default scores."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 48  # length of the longest caption
        must_name: str = "must_name"  # annotation field with the attributes that a caption must mention

        @property
        def default_metrics(self) -> Mapping[str, Mapping[str, Any]]:
            return {"names_all": {"must_name": self.must_name}, "exact_match": {}}

    config: Config
