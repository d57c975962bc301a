"""A model and layout in one whose answer is a function of the question's text, for tests of tasks."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from chatbridge.common.dist import Dist
from chatbridge.conversation.layout import TokenSequence
from chatbridge.processors.image import ImageProcessor
from chatbridge.tasks import Prediction, Task, predictions


class ScriptedModel:
    """Answers `answer(text of the last turn)`; the images of the questions are decoded as for a real model."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer
        self.texts: list[str] = []
        self.conversations: list[Any] = []
        self.stops = ()
        self.language = SimpleNamespace(max_positions=None)
        self.tokenizer = SimpleNamespace(pad_id=0)
        self.template = SimpleNamespace(drawing_ids=None)

    def prompt(self, conversation: Any) -> TokenSequence:
        self.conversations.append(conversation)
        self.texts.append(conversation[-1].text)
        return TokenSequence(ids=[1, len(self.texts) - 1])

    def generate(self, batch: Any, options: Any, stops: Any) -> list[list[int]]:
        return batch.ids[:, 1:2].tolist()

    def finish(self, ids: Any) -> str:
        return self.answer(self.texts[ids[0]]).strip()

    def predictions(self, task: Task) -> list[Prediction]:
        torch.manual_seed(0)
        media = {"image": ImageProcessor(32)}
        return predictions(task, self, self, media, Dist())  # pyright: ignore[reportArgumentType]
