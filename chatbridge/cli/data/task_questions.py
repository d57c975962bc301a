"""A question of an evaluation, read as `tasks.predictions` reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatbridge.conversation.messages import Conversation
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.decoding import decode
from chatbridge.datasets.reading import processors_for
from chatbridge.tasks import question_of


@dataclass(frozen=True)
class Asked:
    """A conversation up to the answer that is asked for, and the answers that count as right."""

    conversation: Conversation
    answers: tuple[str, ...]
    without_sound: str | None = None


def read_question(
    dataset: Dataset, index: int, processors: Mapping[str, Any], rng: np.random.Generator, drop_media: Sequence[str]
) -> Asked:
    """raises   MediaError when it cannot be asked"""
    record = dataset.record(index, rng)
    conversation, right = question_of(record.conversation, drop_media)
    found = decode(conversation, processors_for(dataset, processors))
    references = record.references or ((right,) if right.strip() else ())
    return Asked(found.conversation, references, found.without_sound)
