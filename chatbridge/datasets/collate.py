"""From samples to one batch: rows padded on the right, media stacked per modality in order of appearance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from chatbridge.common.errors import DataError
from chatbridge.common.types import Batch, Failure, Sample
from chatbridge.conversation.layout import TokenSequence
from chatbridge.conversation.messages import Conversation

ByModality = dict[str, Tensor]


class Padding(Protocol):
    @property
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
    """Rows that are laid out already, as a batch; row b belongs to sample b.

    ids, positions  int64[B, L]; positions count from 0 in every row, padding included
    predict_at      int64[S], flat positions b * L + t
    media_slots     modality -> int64[M, K], flat positions; media[modality] -> [M, ...] in the same order
    Media whose turn was cut away are in neither.
    """
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad_id] * (width - len(row.ids)) for row in rows], dtype=torch.int64)  # [B, L]
    media, slots = _media(samples, rows, width)
    return Batch(
        ids=ids,
        positions=torch.arange(width).repeat(len(rows), 1),  # [B, L]
        lengths=torch.tensor([len(row.ids) for row in rows]),
        predict_at=torch.tensor(
            [b * width + t for b, row in enumerate(rows) for t in row.predict_at], dtype=torch.int64
        ),
        target=torch.tensor([target for row in rows for target in row.target], dtype=torch.int64),
        media=media,
        media_slots=slots,
        sources=tuple(sample.source for sample in samples),
        sample_ids=tuple(sample.id for sample in samples),
        failures=failures,
        num_points=tuple(len(row.predict_at) for row in rows),
        num_cut=sum(row.cut_tokens > 0 for row in rows),
        num_empty=sum(row.num_empty for row in rows),
    )


def _media(samples: Sequence[Sample], rows: Sequence[TokenSequence], width: int) -> tuple[ByModality, ByModality]:
    items: dict[str, list[tuple[Sample, Tensor]]] = {}
    slots: dict[str, list[range]] = {}
    for b, (sample, row) in enumerate(zip(samples, rows, strict=True)):
        for modality, slot, start, length in row.media_slots:
            items.setdefault(modality, []).append((sample, sample.media[slot]))
            slots.setdefault(modality, []).append(range(b * width + start, b * width + start + length))
    media = {modality: _stack_alike(modality, found) for modality, found in items.items()}
    return media, {modality: torch.tensor([*map(list, found)]) for modality, found in slots.items()}  # [M, K]


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
