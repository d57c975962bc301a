"""Lengths of the token sequences of a source, from a subset of its annotations; no media file is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge.common import seeds
from chatbridge.common.errors import DataError, MediaError
from chatbridge.conversation.layout import Layout, TokenSequence
from chatbridge.experiment.partial_data import Source
from chatbridge.tasks import question_of, room_for_answer

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Lengths:
    """Lengths of the sequences that could be laid out, in tokens, int64[n] each.

    total       whole sequence
    media       its media slots
    supervised  its supervised tokens
    cut         tokens cut off; for the questions of a task: by how much the room for the answer is below max_new_tokens
    answer      for the questions of a task: the first correct answer
    unusable    reasons, one per sample that cannot be laid out
    """

    total: Ints
    media: Ints
    supervised: Ints
    cut: Ints
    answer: Ints
    unusable: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.total)

    @property
    def num_read(self) -> int:
        return len(self.total) + len(self.unusable)


def spread(size: int, count: int | None) -> Sequence[int]:
    """Return the middle of each of `count` equal parts of 0..size-1; all indices if count is None or not below size."""
    if count is None or count >= size:
        return range(size)
    return [(2 * number + 1) * size // (2 * count) for number in range(count)]


def measure(source: Source, layout: Layout, count: int | None, seed: int) -> Lengths:
    """Return the lengths of `count` samples, spread evenly over the source; None: of all."""
    found: list[tuple[int, int, int, int, int]] = []
    unusable = []
    for index in spread(len(source.dataset), count):
        try:
            sequence, answer = _sequence(source, layout, index, seed)
        except (MediaError, DataError, ValueError) as error:
            unusable.append(str(error))
            continue
        media = sum(length for *_, length in sequence.media_slots)
        found.append((len(sequence.ids), media, len(sequence.target), sequence.cut_tokens, answer))
    columns = np.array(found, dtype=np.int64).reshape(-1, 5).T
    return Lengths(*columns, unusable=tuple(unusable))


def _sequence(source: Source, layout: Layout, index: int, seed: int) -> tuple[TokenSequence, int]:
    record = source.dataset.record(index, seeds.stream(seed, f"stats/{source.name}", index))
    if source.task is None:
        return layout.training_sequence(record.conversation), 0
    conversation, correct = question_of(record.conversation, source.task.drop_media)
    answer = record.references[0] if record.references else correct
    sequence, room = layout.prompt(conversation), room_for_answer(layout, conversation)
    sequence.cut_tokens = 0 if room is None else max(0, source.task.max_new_tokens - room)
    return sequence, len(layout.tokenizer.encode(answer))


def summary(values: Ints) -> dict[str, Any]:
    """Return mean, percentiles and maximum."""
    if not len(values):
        return {"mean": 0.0, "p5": 0, "p50": 0, "p95": 0, "max": 0}
    low, middle, high = np.percentile(values, (5, 50, 95), method="nearest")
    return {"mean": round(float(values.mean()), 1), "p5": int(low), "p50": int(middle), "p95": int(high),
            "max": int(values.max())}  # fmt: skip
