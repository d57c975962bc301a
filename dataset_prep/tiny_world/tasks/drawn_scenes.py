"""Requests for images of the tiny world, and questions that ask for none, judged by metrics/drawn_scenes.py.

The questions are those of heldout/textbind.jsonl (`write_textbind`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatbridge.tasks.base import TASKS, Task, TaskConfig


@TASKS.register("drawn_scenes")
class DrawnScenes(Task):
    """The headline is `met`: the share of the asked images that show all that was asked for."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 64  # length of the longest answer, captions included

        @property
        def default_metrics(self) -> Mapping[str, Mapping[str, Any]]:
            return {"drawn_scenes": {}}
