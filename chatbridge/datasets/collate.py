"""From samples to one batch: rows padded on the right, media stacked per modality in order of appearance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from chatbridge.common.errors import DataError
from chatbridge.common.types import Batch, Failure, Sample, Segments
from chatbridge.conversation.messages import Conversation, media_parts
from chatbridge.conversation.token_sequence import TokenSegment, TokenSequence

ByModality = dict[str, Tensor]


class Padding(Protocol):
    @cached_property  # as in conversation.tokenizer: pyright does not match a property with one
    def pad_id(self) -> int: ...


class LayoutLike(Protocol):
    """What a batch needs from `conversation.layout.Layout`."""

    @property
    def tokenizer(self) -> Padding: ...
    def row(self, conversation: Conversation) -> TokenSequence: ...
    def prompt(self, conversation: Conversation) -> TokenSequence: ...


def collate(samples: Sequence[Sample], layout: LayoutLike, prompt: bool = False) -> Batch:
    """The batch of some samples: training rows, or with `prompt` the rows that ask for an answer.

    raises   ValueError of the layout, for example when nothing is supervised; DataError when media of one modality have
             different shapes or types
    """
    rows = [(layout.prompt if prompt else layout.row)(sample.conversation) for sample in samples]
    return stack(samples, rows, layout.tokenizer.pad_id)


def stack(
    samples: Sequence[Sample], rows: Sequence[TokenSequence], pad_id: int, failures: tuple[Failure, ...] = ()
) -> Batch:
    """Rows that are laid out already, as a batch. One sample per row; of a packed row, one per conversation, in order.

    ids, positions   int64[B, L]; positions as the sequences have them, 0 for padding; in a batch of plain rows they
                     count on through the padding
    segments         None for a batch of plain rows
    predict_at       int64[S], flat positions b * L + t
    source_of_point  None unless a row is packed
    media_slots      modality -> int64[M, K], flat positions; media[modality] -> [M, ...] in the same order
    Media whose turn was cut away are in neither.
    raises   ValueError when there are more or fewer samples than conversations
    """
    of_row = _samples_of_rows(samples, rows)
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad_id] * (width - len(row.ids)) for row in rows], dtype=torch.int64)  # [B, L]
    media, slots = _media(of_row, rows, width)
    points = _conversations_of_points(rows)
    return Batch(
        ids=ids,
        positions=_positions(rows, width),
        lengths=torch.tensor([len(row.ids) for row in rows]),
        predict_at=torch.tensor(
            [b * width + t for b, row in enumerate(rows) for t in row.predict_at], dtype=torch.int64
        ),
        target=torch.tensor([target for row in rows for target in row.target], dtype=torch.int64),
        media=media,
        media_slots=slots,
        sources=tuple(sample.source for sample in samples),
        sample_ids=tuple(sample.id for sample in samples),
        segments=_segments(rows, width),
        source_of_point=None if len(rows) == len(samples) else points,
        failures=failures,
        num_points=tuple(torch.bincount(points, minlength=len(samples)).tolist()),
        num_cut=sum(row.num_cut for row in rows),
        num_empty=sum(row.num_empty for row in rows),
    )


def _samples_of_rows(samples: Sequence[Sample], rows: Sequence[TokenSequence]) -> list[Sequence[Sample]]:
    ends = list(accumulate(row.num_conversations for row in rows))
    if ends[-1] != len(samples):
        raise ValueError(f"{len(samples)} samples for {ends[-1]} conversations in {len(rows)} rows")
    return [samples[start:end] for start, end in pairwise([0, *ends])]


def _conversations_of_points(rows: Sequence[TokenSequence]) -> Tensor:
    """int64[S], the conversation of the batch that each supervised point belongs to"""
    found: list[int] = []
    first = 0  # conversation of the row
    for row in rows:
        found += [first + row.conversation_of(at) for at in row.predict_at]
        first += row.num_conversations
    return torch.tensor(found, dtype=torch.int64)


def _positions(rows: Sequence[TokenSequence], width: int) -> Tensor:
    """int64[B, L]"""
    if all(row.segments is None for row in rows):
        return torch.arange(width).repeat(len(rows), 1)
    return torch.tensor([row.positions + [0] * (width - len(row.ids)) for row in rows])


def _segments(rows: Sequence[TokenSequence], width: int) -> Segments | None:
    if all(row.segments is None for row in rows):
        return None
    found = torch.tensor([[-1, 0, width]]).repeat(len(rows), width, 1)  # [B, L, 3], padding
    for b, row in enumerate(rows):
        segments = row.segments or [TokenSegment()] * len(row)
        found[b, : len(row)] = torch.tensor([(c, n, width if a is None else a) for c, n, a in segments])
    return Segments(*(column.contiguous() for column in found.unbind(2)))


def _media(
    of_row: Sequence[Sequence[Sample]], rows: Sequence[TokenSequence], width: int
) -> tuple[ByModality, ByModality]:
    items: dict[str, list[tuple[Sample, Tensor]]] = {}
    slots: dict[str, list[range]] = {}
    for b, (samples, row) in enumerate(zip(of_row, rows, strict=True)):
        for sample in samples:
            _check_number(sample)
        for modality, item, start, length in row.media_slots:
            sample = samples[row.conversation_of(start)]
            items.setdefault(modality, []).append((sample, sample.media[item]))
            slots.setdefault(modality, []).append(range(b * width + start, b * width + start + length))
    media = {modality: _stack_alike(modality, found) for modality, found in items.items()}
    return media, {modality: torch.tensor([*map(list, found)]) for modality, found in slots.items()}  # [M, K]


def _check_number(sample: Sample) -> None:
    """raises DataError when a conversation has more media parts than decoded media, or the reverse"""
    found, wanted = len(sample.media), sum(1 for _ in media_parts(sample.conversation))
    if found != wanted:
        raise DataError(
            f"sample {sample.id!r} of source {sample.source!r} has {wanted} media parts in its conversation and "
            f"{found} decoded media; a data set gives one tensor per media part, in reading order"
        )


def _stack_alike(modality: str, items: Sequence[tuple[Sample, Tensor]]) -> Tensor:
    """[M, ...] of the type of its items: uint8 pixels stay uint8"""
    first, like = items[0]
    for sample, tensor in items:
        if (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
            raise DataError(
                f"{modality} tensors of one batch differ: {_kind(like)} in sample {first.id!r} of source "
                f"{first.source!r}, {_kind(tensor)} in {sample.id!r} of {sample.source!r}; frames and clips of sources "
                "that share a batch must agree (data.mix: step keeps sources apart), sizes are set per route"
            )
    return torch.stack([tensor for _, tensor in items], out=_shared(len(items), like))


def _shared(count: int, like: Tensor) -> Tensor | None:
    """In a loader worker: memory that the main process sees, as torch's own collate takes it, which saves a copy."""
    if get_worker_info() is None:
        return None
    storage = torch.UntypedStorage._new_shared(count * like.nbytes, device="cpu")
    return torch.empty(0, dtype=like.dtype).set_(storage).view(count, *like.shape)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
