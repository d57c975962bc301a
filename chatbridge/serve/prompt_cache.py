"""The KV cache of the last conversation: a question that continues it reads only its new tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from torch import Tensor

from chatbridge.common.types import Batch, Features
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing.positions import MediaPosition, Position
from chatbridge.models.language.cache import Cache


def positions_of(batch: Batch) -> list[Position]:
    """What each position of a batch of one conversation holds: a token id, or a position of a media item."""
    found: list[Position] = list(batch.ids[0, : int(batch.lengths[0])].tolist())
    for modality, slots in batch.media_slots.items():
        items = cast("Tensor", batch.media[modality])  # the feature cache is for training
        for item, columns in zip(items, slots.tolist(), strict=True):
            for offset, column in enumerate(columns):
                found[column] = MediaPosition(modality, item, offset)
    return found


def num_shared(before: list[Position], after: list[Position]) -> int:
    """Length of the common beginning; it never ends within a media item, and never covers all of `after`."""
    count = 0
    for one, other in zip(before, after[:-1], strict=False):
        if not (one.is_same(other) if isinstance(one, MediaPosition) else one == other):
            break
        count += 1
    while count and isinstance(inside := after[count], MediaPosition) and inside.offset:
        count -= 1
    return count


def num_media(positions: list[Position]) -> int:
    """Number of media items that begin there."""
    return sum(isinstance(one, MediaPosition) and one.offset == 0 for one in positions)


def rest_of(batch: Batch, start: int) -> Batch:
    """A batch of one conversation from position `start` on, with the media there; its positions begin at 0."""
    media: dict[str, Tensor | Features] = {}
    media_slots: dict[str, Tensor] = {}
    for modality, slots in batch.media_slots.items():
        is_left = slots[:, 0] >= start
        if bool(is_left.any()):
            items = cast("Tensor", batch.media[modality])
            media[modality], media_slots[modality] = items[is_left], slots[is_left] - start
    ids = batch.ids[:, start:]  # [1, L - start]
    positions = batch.positions[:, : ids.shape[1]]
    return replace(
        batch,
        ids=ids,
        positions=positions,
        lengths=batch.lengths - start,
        media=media,
        media_slots=media_slots,
        media_rows={},
    )


class PromptCache:
    """Holds the KV cache of one conversation until another one replaces it.

    The weights must not change meanwhile; call `forget` after changing them, or to free the memory.
    """

    def __init__(self) -> None:
        self._kept: tuple[Cache, list[Position]] | None = None

    def take(self, model: ChatModel, batch: Batch) -> tuple[Cache, Batch]:
        """A cache of the beginning of a conversation, and the rest of it; the caller owns the cache until `put`."""
        kept, self._kept = self._kept, None
        if kept is not None:
            cache, before = kept
            after = positions_of(batch)
            start = num_shared(before, after)
            is_valid = model.fusion.keeps_states(*map(num_media, (before[:start], before[start:], after[start:])))
            if start and is_valid and (cache.store.croppable or start == cache.length):
                cache.crop(start)
                return cache, rest_of(batch, start)
        return model.language.new_cache(), batch

    def put(self, cache: Cache, batch: Batch, chosen: Sequence[Position]) -> None:
        """Keep the cache of a prompt and its answer.

        chosen   what follows the prompt: token ids, and positions of rendered images; the cache may not have read the
                 last one
        """
        self._kept = (cache, [*positions_of(batch), *chosen][: cache.length])

    def forget(self) -> None:
        """Free the cache."""
        self._kept = None
