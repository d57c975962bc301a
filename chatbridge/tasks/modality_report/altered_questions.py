"""A data set with the questions of another one, whose media a condition changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from chatbridge.common import seeds
from chatbridge.conversation.messages import Conversation, Media, Message, Part
from chatbridge.datasets.builders import Dataset, Record
from chatbridge.processors.media_source import Rolled
from chatbridge.tasks.base import Task
from chatbridge.tasks.modality_report.conditions import AUDIO, Condition, items_of, prompt_of


def under(task: Task, condition: Condition) -> Task:
    """The task with the same questions under a condition; its name ends with that of the condition."""
    altered = copy.copy(task)
    altered.name = f"{task.name}.{condition.name}"
    dropped = (*task.config.drop_media, *((condition.modality,) if condition.kind == "without" else ()))
    altered.config = replace(task.config, drop_media=dropped)
    altered.dataset = AlteredQuestions(task.dataset, condition, task.name)
    return altered


class AlteredQuestions(Dataset):
    """The questions of `inner` with other media, and with the texts that the task `task` draws for them."""

    def __init__(self, inner: Dataset, condition: Condition, task: str) -> None:
        self.inner, self.condition, self.task = inner, condition, task
        self.config, self.name, self.modalities = inner.config, inner.name, inner.modalities
        self._asked = frozenset(condition.asked)

    def __len__(self) -> int:
        return len(self.inner)

    def sample_id(self, index: int) -> str:
        return self.inner.sample_id(index)

    def shared_id(self, index: int) -> str:
        return self.inner.shared_id(index)

    def details(self, index: int) -> Mapping[str, Any]:
        return self.inner.details(index)

    def options(self, index: int) -> Mapping[str, Any]:
        return self.inner.options(index)

    def references(self, index: int) -> tuple[str, ...]:
        return self.inner.references(index)

    @property
    def has_drawings(self) -> bool:
        return self.inner.has_drawings

    def record(self, index: int, rng: np.random.Generator) -> Record:
        """`rng` is not used: the stream that the task has without a condition draws the same prompt."""
        record = self.inner.record(index, seeds.stream(0, f"task/{self.task}", index))
        return replace(record, conversation=self._altered(index, record.conversation))

    def _altered(self, index: int, conversation: Conversation) -> Conversation:
        condition = self.condition
        if condition.kind == "misaligned" and index in self._asked:
            return _with_media(conversation, AUDIO, [Rolled(item.ref) for item in _of(conversation, AUDIO)])
        if condition.kind == "shuffled" and index in condition.donors:
            donor = prompt_of(self.inner, self.task, condition.donors[index])
            others = [item.ref for item in _of(donor, condition.modality)]
            return _with_media(conversation, condition.modality, others)
        return conversation


def _of(conversation: Conversation, modality: str) -> list[Media]:
    return [item for item in items_of(conversation) if item.modality == modality]


def _with_media(conversation: Conversation, modality: str, refs: Sequence[Any]) -> Conversation:
    """The conversation with these media in order; fewer refs than media begin again."""
    number = 0

    def part(old: Part) -> Part:
        nonlocal number
        if not isinstance(old, Media) or old.modality != modality:
            return old
        number += 1
        return Media(modality, refs[(number - 1) % len(refs)])

    def message(old: Message) -> Message:
        return replace(old, parts=tuple(map(part, old.parts)))

    return tuple(map(message, conversation))
