"""Batches of one row with which an answer goes on after an image: the image alone, or the whole conversation again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from chatbridge.common.types import Batch
from chatbridge.conversation.token_sequence import TokenSequence
from chatbridge.models.drawing.positions import MediaPosition, Position

Item = tuple[str, Tensor, list[int]]  # modality, the encoder's input, positions of its slots


def image_batch(tokens: TokenSequence, item: Tensor, device: torch.device) -> Batch:
    """The slots of one image by themselves.

    tokens  Layout.media("image")
    item    float[...], the encoder's input
    """
    slots = [list(range(slot.start, slot.start + slot.length)) for slot in tokens.media_slots]
    return _batch(tokens.ids, [("image", item, one) for one in slots], device)


def row_batch(batch: Batch, row: int, chosen: Sequence[Position] = (), slots: TokenSequence | None = None) -> Batch:
    """The prompt of a row with what follows it, as a batch of one.

    chosen  what follows the prompt: token ids, and positions of drawn images
    slots   Layout.media("image"): the ids in the slots of an image; needed with images
    """
    width, length = batch.ids.shape[1], int(batch.lengths[row])
    ids = batch.ids[row, :length].tolist()
    items = [item for modality in batch.media_slots for item in _of_row(batch, modality, row, width)]
    for position in chosen:
        if not isinstance(position, MediaPosition):
            ids.append(position)
            continue
        if position.offset == 0:
            items.append((position.modality, position.item, []))
        assert slots is not None
        items[-1][2].append(len(ids))
        ids.append(slots.ids[position.offset])
    return _batch(ids, items, batch.ids.device)


def _of_row(batch: Batch, modality: str, row: int, width: int) -> list[Item]:
    media = cast("Tensor", batch.media[modality])
    slots = [(item, one.tolist()) for item, one in zip(media, batch.media_slots[modality], strict=True)]
    return [(modality, item, [at - row * width for at in one]) for item, one in slots if one[0] // width == row]


def _batch(ids: list[int], items: Sequence[Item], device: torch.device) -> Batch:
    """Without supervised points; items of a modality are in order."""
    found: dict[str, list[tuple[Tensor, list[int]]]] = {}
    for modality, item, slots in items:
        found.setdefault(modality, []).append((item.to(device), slots))
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(
        ids=torch.tensor([ids], dtype=torch.int64),
        positions=torch.arange(len(ids))[None],
        lengths=torch.tensor([len(ids)]),
        predict_at=nothing,
        target=nothing,
        media={modality: torch.stack([item for item, _ in own]) for modality, own in found.items()},
        media_slots={modality: torch.tensor([slots for _, slots in own]) for modality, own in found.items()},
        media_rows={modality: (0,) * len(own) for modality, own in found.items()},
    ).to(device)


__all__ = ["image_batch", "row_batch"]
