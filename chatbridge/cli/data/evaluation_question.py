"""Read a question of an evaluation as `tasks.predictions` reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatbridge.conversation.messages import Conversation
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.decoding import decode
from chatbridge.datasets.sample_reader import processors_for
from chatbridge.tasks import question_of


@dataclass(frozen=True)
class EvaluationQuestion:
    """A conversation up to the answer, and the correct answers.

    without_sound   reason if the prompt states that audio is missing, else None
    """

    conversation: Conversation
    answers: tuple[str, ...]
    without_sound: str | None = None


def read_question(
    dataset: Dataset, index: int, processors: Mapping[str, Any], rng: np.random.Generator, drop_media: Sequence[str]
) -> EvaluationQuestion:
    """Read the question of a sample and decode its media. Raises MediaError if media cannot be read."""
    record = dataset.record(index, rng)
    conversation, correct = question_of(record.conversation, drop_media)
    found = decode(conversation, processors_for(dataset, processors))
    references = record.references or ((correct,) if correct.strip() else ())
    return EvaluationQuestion(found.conversation, references, found.without_sound)
