"""Dialogues: the last question is asked with the rounds before it, and the answer is compared with several others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatbridge.tasks.base import TASKS, Task, TaskConfig


@TASKS.register("dialogue")
class Dialogue(Task):
    """The last answer of a conversation; the earlier ones are part of the prompt, as they are in the data.

    The default scores are those of the AVSD challenges (DSTC7, DSTC8) but METEOR, which needs a package. A data set
    shortens what precedes the question, for example `history: 0` of the format avsd.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 48  # length of the longest answer

        @property
        def default_metrics(self) -> Mapping[str, Mapping[str, Any]]:
            return {"cider": {}, "bleu": {}, "rouge_l": {}}

    config: Config
