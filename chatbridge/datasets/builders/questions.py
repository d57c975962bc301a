"""Questions in MULTIS's JSON: {"video_id" | "image_id": ..., "question": text or list, "answer": text or list}.

Tags `ti-shortqa`, `ti-normalqa`, `tv-shortqa` ...: a prompt of the tag is drawn and its <QUESTION> replaced.
Tag `ti-qa`: the question stands as it is. Lists are parallel: one index is drawn for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from chatbridge.conversation.messages import Media, Message, assistant, user
from chatbridge.datasets.annotations import check_fields
from chatbridge.datasets.builders._multis import MultisConfig, MultisDataset, strings
from chatbridge.datasets.builders._prompts import QUESTION
from chatbridge.datasets.builders.base import BUILDERS, draw


@BUILDERS.register("questions")
class Questions(MultisDataset):
    @dataclass(frozen=True, kw_only=True)
    class Config(MultisConfig):
        tasks: ClassVar[tuple[str, ...]] = ("shortqa", "normalqa", "qa")
        prompted: ClassVar[tuple[str, ...]] = ("shortqa", "normalqa")
        asks: ClassVar[bool] = True

    config: Config

    def check(self, record: dict[str, Any]) -> str | None:
        fault = check_fields(record, ("question", "answer"))
        if fault is not None:
            return fault
        questions, answers = strings(record["question"]), strings(record["answer"])
        if questions is None or answers is None:
            return f"{'question' if questions is None else 'answer'!r} is neither text nor a list of texts"
        if len(questions) != len(answers):
            return f"has {len(questions)} questions and {len(answers)} answers"
        return None

    def messages(
        self, record: dict[str, Any], media: tuple[Media, ...], rng: np.random.Generator
    ) -> tuple[tuple[Message, ...], tuple[str, ...]]:
        pairs = list(zip(strings(record["question"]) or (), strings(record["answer"]) or ()))
        question, answer = draw(pairs, rng)
        prompt = self.draw_prompt(rng)
        words = question if prompt is None else prompt.replace(QUESTION, question)
        return (user(*media, words), assistant(answer)), (answer,)
