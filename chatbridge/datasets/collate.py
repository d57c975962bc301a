"""From samples to one batch: sequences padded on the right, media stacked per modality in order of appearance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from chatbridge.common.errors import DataError
from chatbridge.common.types import Batch, Failure, Features, Sample, Segments
from chatbridge.conversation.messages import Conversation, media_parts
from chatbridge.conversation.token_sequence import TokenSequence, are_cumulative

ByModality = dict[str, Tensor]


class Padding(Protocol):
    """The part of a tokenizer that a batch needs."""

    @cached_property  # as in conversation.tokenizer: pyright does not match a property with one
    def pad_id(self) -> int: ...


class LayoutLike(Protocol):
    """The part of `conversation.layout.Layout` that a batch needs."""

    @property
    def tokenizer(self) -> Padding: ...
    def training_sequence(self, conversation: Conversation) -> TokenSequence: ...
    def training_length(self, conversation: Conversation) -> int: ...
    def prompt(self, conversation: Conversation) -> TokenSequence: ...


def collate(samples: Sequence[Sample], layout: LayoutLike, prompt: bool = False) -> Batch:
    """The batch of some samples: sequences for training, or with `prompt` those that end with an open assistant turn.

    raises   ValueError of the layout, for example when nothing is supervised; DataError when media of one modality have
             different shapes or types
    """
    sequences = [(layout.prompt if prompt else layout.training_sequence)(sample.conversation) for sample in samples]
    return stack(samples, sequences, layout.tokenizer.pad_id)


def stack(
    samples: Sequence[Sample], sequences: Sequence[TokenSequence], pad_id: int, failures: tuple[Failure, ...] = ()
) -> Batch:
    """The batch of token sequences. One sample per sequence; for a packed one, one per conversation, in order.

    ids, positions   int64[B, L]; positions as in the sequences, 0 for padding; in a batch without segments they also
                     count through the padding
    segments         None if no sequence has any
    predict_at       int64[S], flat positions b * L + t
    target           int64[S], the ids to predict there
    source_of_point  int64[S], the sample of each supervised point; None unless a sequence is packed
    media_slots      modality -> int64[M, K], flat positions; media[modality] -> [M, ...] in the same order
    media_rows       modality -> the rows of these M items
    Media of a turn that was cut are in neither.
    raises   ValueError when there are more or fewer samples than conversations, or for side texts of two kinds
    """
    samples_of = _samples_of_sequences(samples, sequences)
    width = max(len(sequence.ids) for sequence in sequences)
    padded = [sequence.ids + [pad_id] * (width - len(sequence.ids)) for sequence in sequences]
    ids = torch.tensor(padded, dtype=torch.int64)  # [B, L]
    media, slots = _media(samples_of, sequences, width)
    rows = {modality: tuple((found[:, 0] // width).tolist()) for modality, found in slots.items()}
    points = _conversations_of_points(sequences)
    return Batch(
        ids=ids,
        positions=_positions(sequences, width),
        lengths=torch.tensor([len(sequence.ids) for sequence in sequences]),
        predict_at=torch.tensor(
            [b * width + t for b, sequence in enumerate(sequences) for t in sequence.predict_at], dtype=torch.int64
        ),
        target=torch.tensor([target for sequence in sequences for target in sequence.target], dtype=torch.int64),
        media=media,
        media_slots=slots,
        media_rows=rows,
        sources=tuple(sample.source for sample in samples),
        sample_ids=tuple(sample.id for sample in samples),
        segments=_segments(sequences, width),
        source_of_point=None if len(sequences) == len(samples) else points,
        failures=failures,
        num_points=tuple(torch.bincount(points, minlength=len(samples)).tolist()),
        num_cut=sum(sequence.num_cut for sequence in sequences),
        num_empty=sum(sequence.num_empty for sequence in sequences),
    )


def _samples_of_sequences(samples: Sequence[Sample], sequences: Sequence[TokenSequence]) -> list[Sequence[Sample]]:
    ends = list(accumulate(sequence.num_conversations for sequence in sequences))
    if ends[-1] != len(samples):
        raise ValueError(f"{len(samples)} samples for {ends[-1]} conversations in {len(sequences)} sequences")
    return [samples[start:end] for start, end in pairwise([0, *ends])]


def _conversations_of_points(sequences: Sequence[TokenSequence]) -> Tensor:
    """The conversation of each supervised point, int64[S]."""
    found: list[int] = []
    first = 0  # conversation of the sequence
    for sequence in sequences:
        segments = sequence.segments
        found += [first + (0 if segments is None else segments[at].conversation) for at in sequence.predict_at]
        first += sequence.num_conversations
    return torch.tensor(found, dtype=torch.int64)


def _positions(sequences: Sequence[TokenSequence], width: int) -> Tensor:
    """The position of each token in its conversation, int64[B, L]."""
    if all(sequence.segments is None for sequence in sequences):
        return torch.arange(width).repeat(len(sequences), 1)
    found = np.zeros((len(sequences), width), np.int64)
    counted = np.arange(width)
    for row, sequence in zip(found, sequences, strict=True):
        if sequence.sizes is None:
            row[: len(sequence)] = sequence.positions
        for start, size in _parts(sequence.sizes or ()):
            row[start : start + size] = counted[:size]
    return torch.from_numpy(found)


def _segments(sequences: Sequence[TokenSequence], width: int) -> Segments | None:
    if all(sequence.segments is None for sequence in sequences):
        return None
    if all(sequence.sizes is not None for sequence in sequences):
        return _segments_of_base(sequences, width)
    runs: list[tuple[int, int, int]] = []  # tokens in a row that share a segment
    counts: list[int] = []
    for sequence in sequences:
        for segment, size in sequence.runs():
            runs.append((segment.conversation, segment.branch, width if segment.anchor is None else segment.anchor))
            counts.append(size)
        runs.append((-1, 0, width))  # padding
        counts.append(width - len(sequence))
    found = torch.tensor(runs).repeat_interleave(torch.tensor(counts), 0).view(len(sequences), width, 3)  # [B, L, 3]
    conversation, branch, anchor = (column.contiguous() for column in found.unbind(2))
    return Segments(conversation, branch, anchor, are_cumulative(sequences))


def _segments_of_base(sequences: Sequence[TokenSequence], width: int) -> Segments:
    """Segments of sequences without side texts: the numbers of the conversations alone differ."""
    conversation = np.full((len(sequences), width), -1)
    for row, sequence in zip(conversation, sequences, strict=True):
        for number, (start, size) in enumerate(_parts(sequence.sizes or ())):
            row[start : start + size] = number
    shape = conversation.shape  # numpy: between two images, a call into torch costs several times as much
    return Segments(torch.from_numpy(conversation), torch.zeros(shape, dtype=torch.int64), torch.full(shape, width))


def _parts(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Start and size of each conversation of a sequence."""
    return zip(accumulate(sizes, initial=0), sizes, strict=False)


def _media(
    samples_of: Sequence[Sequence[Sample]], sequences: Sequence[TokenSequence], width: int
) -> tuple[dict[str, Tensor | Features], ByModality]:
    items: dict[str, list[tuple[Sample, Tensor | Features]]] = {}
    slots: dict[str, list[range]] = {}
    for b, (samples, sequence) in enumerate(zip(samples_of, sequences, strict=True)):
        for sample in samples:
            _check_number(sample)
        for modality, item, start, length in sequence.media_slots:
            sample = samples[sequence.conversation_of(start)]
            items.setdefault(modality, []).append((sample, sample.media[item]))
            slots.setdefault(modality, []).append(range(b * width + start, b * width + start + length))
    media = {modality: _stacked(modality, found) for modality, found in items.items()}
    return media, {modality: torch.tensor([*map(list, found)]) for modality, found in slots.items()}  # [M, K]


def _check_number(sample: Sample) -> None:
    """raises DataError when a conversation has more media parts than decoded media, or the reverse"""
    found, wanted = len(sample.media), sum(1 for _ in media_parts(sample.conversation))
    if found != wanted:
        raise DataError(
            f"sample {sample.id!r} of source {sample.source!r} has {wanted} media parts in its conversation and "
            f"{found} decoded media; a data set must give one tensor per media part, in reading order"
        )


def _stacked(modality: str, items: Sequence[tuple[Sample, Tensor | Features]]) -> Tensor | Features:
    """The items of a modality as tensor [M, ...], or as Features of M items from their x [T, N, W] of the cache."""
    if not any(isinstance(item, Features) for _, item in items):
        return _stack_alike(modality, cast("Sequence[tuple[Sample, Tensor]]", items))
    if not all(isinstance(item, Features) for _, item in items):
        raise DataError(f"{modality}: a batch has media and features of the cache; all sources must use the same")
    found = [(sample, cast("Features", item)) for sample, item in items]
    x = _stack_alike(modality, [(sample, item.x) for sample, item in found]).flatten(1, 2)  # [M, T * N, W]
    first, mask, scale = found[0][1], None, None
    if any(item.mask is not None for _, item in found):
        masks = [item.x.new_ones(item.x.shape[:2], dtype=torch.bool) if item.mask is None else item.mask
                 for _, item in found]  # fmt: skip
        mask = torch.stack(masks).flatten(1, 2)  # [M, T * N]
    if first.scale is not None:
        scale = torch.stack([cast("Tensor", item.scale) for _, item in found]).flatten(1, 2)  # [M, T * N, 1]
    return Features(x, mask, first.frames, scale)


def _stack_alike(modality: str, items: Sequence[tuple[Sample, Tensor]]) -> Tensor:
    """The items in one tensor [M, ...] of their dtype: uint8 pixels stay uint8. raises DataError if they differ"""
    first, like = items[0]
    for sample, tensor in items:
        if (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
            raise DataError(
                f"{modality} tensors of one batch differ: {_kind(like)} in sample {first.id!r} of source "
                f"{first.source!r}, {_kind(tensor)} in {sample.id!r} of {sample.source!r}; sources that share a batch "
                "need equal numbers of frames and clips (or set data.mix: step); sizes are set per route"
            )
    return torch.stack([tensor for _, tensor in items], out=_shared(len(items), like))


def _shared(count: int, like: Tensor) -> Tensor | None:
    """In a loader worker: shared memory, as in torch's own collate, which saves a copy. None in other processes."""
    if get_worker_info() is None:
        return None
    storage = torch.UntypedStorage._new_shared(count * like.nbytes, device="cpu")
    return torch.empty(0, dtype=like.dtype).set_(storage).view(count, *like.shape)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
