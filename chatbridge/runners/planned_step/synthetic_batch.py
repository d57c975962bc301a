"""A batch of planned shape without data: for a simulated step, and for one that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.types import Batch, Features, Segments
from chatbridge.models.flops import BatchShape


@dataclass(frozen=True, kw_only=True)
class PlannedBatch(BatchShape):
    """The sizes of a micro-batch.

    conversations  in all rows; None: one per row. More than rows: packed
    is_packed      rows hold several conversations, apart by segments
    pixel_bytes    modalities whose media arrive as uint8
    frames         modality -> pieces of an item, of cached features
    """

    conversations: int | None = None
    is_packed: bool = False
    pixel_bytes: frozenset[str] = field(default_factory=frozenset)
    frames: Mapping[str, int] = field(default_factory=dict)

    def times(self, factor: float) -> PlannedBatch:
        """The same batch with `factor` times as many rows, conversations, points and items, rounded up.

        A row holds no more items than before on average: few of several modalities need a row each.
        """

        def scaled(count: float) -> int:
            return max(1, -int(-count * factor // 1)) if count else 0

        media = {name: (scaled(shape[0]), *shape[1:]) for name, shape in self.media.items()}
        items = sum(shape[0] for shape in self.media.values())
        needed = -(-sum(shape[0] for shape in media.values()) * self.rows // items) if items else 0
        rows = max(scaled(self.rows), needed)
        return replace(
            self,
            rows=rows,
            points=scaled(self.points),
            media=media,
            pairs=None if self.pairs is None else self.pairs * factor,
            conversations=None if self.conversations is None else max(rows, scaled(self.conversations)),
        )


def synthetic_batch(shape: PlannedBatch, slots: Mapping[str, int], device: torch.device | str) -> Batch:
    """A batch of this shape: ids and pixels are zeros or small, slots and points differ.

    slots   modality -> positions of an item in a sequence (ChatModel.media_lengths)
    raises  ValueError when the media do not fit into the rows
    """
    rows, length, count = shape.rows, shape.length, shape.conversations or shape.rows
    source = torch.arange(max(shape.points, 1)) * count // max(shape.points, 1)  # [S], the conversation of a point
    points = torch.arange(shape.points) * (rows * length) // max(shape.points, 1)  # [S], spread over all positions
    whole = Batch(
        ids=torch.ones(rows, length, dtype=torch.int64),
        positions=torch.arange(length).repeat(rows, 1),
        lengths=torch.full((rows,), length),
        predict_at=points,
        target=torch.ones(shape.points, dtype=torch.int64),
        media={name: _media(shape, name) for name in shape.media},
        media_slots=_slots(shape, slots),
        sources=("planned",) * count,
        sample_ids=("planned",) * count,
        segments=_segments(rows, length, count) if shape.is_packed else None,
        source_of_point=source[: shape.points] if shape.is_packed else None,
        num_points=tuple(torch.bincount(source[: shape.points], minlength=count).tolist()),
    )
    return whole.to(device)


def _media(shape: PlannedBatch, name: str) -> Any:
    if name in shape.cached:
        features = torch.zeros(shape.media[name], dtype=torch.bfloat16)
        return Features(features, frames=shape.frames.get(name, 1))
    return torch.zeros(shape.media[name], dtype=torch.uint8 if name in shape.pixel_bytes else torch.float32)


def _slots(shape: PlannedBatch, slots: Mapping[str, int]) -> dict[str, Tensor]:
    """modality -> int64[M, K], each item inside one row: the widest first, each into the row with most room."""
    room = [(1, row) for row in range(shape.rows)]  # positions that are taken, the first by the beginning-of-sequence
    found: dict[str, Tensor] = {}
    for name in sorted(shape.media, key=lambda name: -slots[name]):
        width, starts = slots[name], []
        count = shape.media[name][0]
        for _ in range(count):
            used, row = heappop(room)
            if used + width > shape.length:
                raise ValueError(f"{count} items of {width} slots do not fit into rows of {shape.length} positions")
            starts.append(row * shape.length + used)
            heappush(room, (used + width, row))
        found[name] = torch.tensor(starts)[:, None] + torch.arange(width)
    return {name: found[name] for name in shape.media}


def _segments(rows: int, length: int, count: int) -> Segments:
    """Conversations of equal length in every row."""
    per_row = max(1, count // rows)
    conversation = (torch.arange(length) * per_row // length).repeat(rows, 1)
    return Segments(conversation, torch.zeros(rows, length).long(), torch.full((rows, length), length))
