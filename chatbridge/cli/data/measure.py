"""Lengths of the rows of a source, from a sample of its annotations; no media file is decoded."""

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
    """Of the rows that could be laid out, int64[n] each: all places, those of media, what is learned, what was cut off
    (of the questions of an evaluation: by how much the room for an answer is below max_new_tokens).

    answer     of the questions of an evaluation: ids of the first right answer
    unusable   reasons, one per sample that gives no row
    """

    row: Ints
    media: Ints
    learned: Ints
    cut: Ints
    answer: Ints
    unusable: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.row)

    @property
    def num_read(self) -> int:
        return len(self.row) + len(self.unusable)


def spread(size: int, count: int | None) -> Sequence[int]:
    """The middle of each of `count` equal parts of 0..size-1; everything when that is less, or count is None."""
    if count is None or count >= size:
        return range(size)
    return [(2 * number + 1) * size // (2 * count) for number in range(count)]


def measure(source: Source, layout: Layout, count: int | None, seed: int) -> Lengths:
    """Lengths of `count` samples, spread over the source evenly."""
    rows: list[tuple[int, int, int, int, int]] = []
    unusable = []
    for index in spread(len(source.dataset), count):
        try:
            row, answer = _row(source, layout, index, seed)
        except (MediaError, DataError, ValueError) as error:
            unusable.append(str(error))
            continue
        media = sum(length for *_, length in row.media_slots)
        rows.append((len(row.ids), media, len(row.target), row.cut_tokens, answer))
    columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
    return Lengths(*columns, unusable=tuple(unusable))


def _row(source: Source, layout: Layout, index: int, seed: int) -> tuple[TokenSequence, int]:
    record = source.dataset.record(index, seeds.stream(seed, f"stats/{source.name}", index))
    if source.task is None:
        return layout.row(record.conversation), 0
    conversation, right = question_of(record.conversation, source.task.drop_media)
    answer = record.references[0] if record.references else right
    row, room = layout.prompt(conversation), room_for_answer(layout, conversation)
    row.cut_tokens = 0 if room is None else max(0, source.task.max_new_tokens - room)
    return row, len(layout.tokenizer.encode(answer))


def summary(values: Ints) -> dict[str, Any]:
    """Mean and percentiles, for people and JSON."""
    if not len(values):
        return {"mean": 0.0, "p5": 0, "p50": 0, "p95": 0, "max": 0}
    low, middle, high = np.percentile(values, (5, 50, 95), method="nearest")
    return {"mean": round(float(values.mean()), 1), "p5": int(low), "p50": int(middle), "p95": int(high),
            "max": int(values.max())}  # fmt: skip
