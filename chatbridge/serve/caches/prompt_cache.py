"""KV caches of recent conversations: a question that continues one of them reads only its new tokens."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor

from chatbridge.common.forked import renew_in_children
from chatbridge.common.types import Batch, Features
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing.positions import MediaPosition, Position
from chatbridge.models.language.cache import Cache
from chatbridge.processors.limits import MB
from chatbridge.serve.caches.bounded_cache import CacheCounts, tensor_bytes
from chatbridge.serve.uploads.upload_parts import digest_of

Digests = Mapping[str, Sequence[bytes]]  # modality -> digest of each item of a batch
Place = int | tuple[str, bytes, int]  # a token id; or modality, digest and offset of a position of a media item
BYTES_PER_PLACE = 128  # of the Python objects beside the tensors, roughly


def digests_of(batch: Batch) -> dict[str, list[bytes]]:
    """The digests of the media of a batch."""
    return {name: [digest_of(item) for item in cast("Tensor", items)] for name, items in batch.media.items()}


def positions_of(batch: Batch, digests: Digests | None = None) -> list[Place]:
    """What each position of a batch of one conversation holds; equal positions of two batches hold the same.

    digests  of its media, in order, if the caller has them
    """
    found: list[Place] = list(batch.ids[0, : int(batch.lengths[0])].tolist())
    known = digests_of(batch) if digests is None else digests
    for modality, slots in batch.media_slots.items():
        for digest, columns in zip(known[modality], slots.tolist(), strict=True):
            for offset, column in enumerate(columns):
                found[column] = modality, digest, offset
    return found


def num_shared(before: Sequence[Place], after: Sequence[Place]) -> int:
    """Length of the common beginning; it never ends within a media item, and never covers all of `after`."""
    pairs = enumerate(zip(before, after[:-1], strict=False))
    count = next((at for at, (one, other) in pairs if one != other), min(len(before), max(len(after) - 1, 0)))
    while count and isinstance(inside := after[count], tuple) and inside[2]:
        count -= 1
    return count


def num_media(positions: Sequence[Place]) -> int:
    """Number of media items that begin there."""
    return sum(isinstance(one, tuple) and one[2] == 0 for one in positions)


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


@dataclass(eq=False)
class _Kept:
    """A cache and what its positions hold; the first `num_prompt` of them are a prompt, the others its answer."""

    cache: Cache
    places: list[Place]
    num_prompt: int
    num_bytes: int


class PromptCache:
    """Holds KV caches of conversations, of at most so many bytes together; those used longest ago go first.

    The weights must not change meanwhile; call `forget` after changing them, or to free the memory. Any number of
    threads may call it.
    """

    def __init__(self, max_mb: float = float("inf")) -> None:
        """max_mb  limit in MB; 0: nothing is kept"""
        self._most = max_mb * MB
        self._held: list[_Kept] = []  # from the least recently used on
        self._hits = self._misses = 0
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """With a lock that nobody holds."""
        self._lock = threading.Lock()

    def take(self, model: ChatModel, batch: Batch, digests: Digests | None = None) -> tuple[Cache, Batch]:
        """A cache of the beginning of a conversation, and the rest of it; the caller owns the cache until `put`.

        A conversation that goes on takes its cache with it. One that only begins like another, for example with the
        same system message or the same image, gets a copy of that part.
        """
        after = positions_of(batch, digests)
        with self._lock:
            best, start = self._longest(model, after)
            self._hits, self._misses = self._hits + (best is not None), self._misses + (best is None)
            if best is None:
                return model.language.new_cache(), batch
            self._held.remove(best)
            cache = best.cache
            if start < best.num_prompt - 1:  # the prompt that is kept goes on in another way
                cache = best.cache.select([0])
                self._held.append(best)
        cache.crop(start)
        return cache, rest_of(batch, start)

    def _longest(self, model: ChatModel, after: Sequence[Place]) -> tuple[_Kept | None, int]:
        """The entry with the longest beginning that is still valid, and the length of that."""
        best, most = None, 0
        for kept in reversed(self._held):
            before = kept.places
            start = num_shared(before, after)
            if start <= most or not (kept.cache.store.croppable or start == kept.cache.length):
                continue
            if model.fusion.keeps_states(*map(num_media, (before[:start], before[start:], after[start:]))):
                best, most = kept, start
        return best, most

    def put(self, cache: Cache, batch: Batch, chosen: Sequence[Position], digests: Digests | None = None) -> None:
        """Keep the cache of a prompt and its answer.

        chosen   what follows the prompt: token ids, and positions of rendered images; the cache may not have read the
                 last one
        """
        prompt = positions_of(batch, digests)
        places = [*prompt, *_places(chosen)][: cache.length]
        new = _Kept(cache, places, min(len(prompt), len(places)), tensor_bytes(cache) + BYTES_PER_PLACE * len(places))
        if not places or new.num_bytes > self._most:
            return
        with self._lock:
            self._held = [one for one in self._held if places[: len(one.places)] != one.places]
            self._held.append(new)
            size = sum(one.num_bytes for one in self._held)
            while size > self._most:
                size -= self._held.pop(0).num_bytes

    def forget(self) -> None:
        """Free all caches."""
        with self._lock:
            self._held = []

    @property
    def latest(self) -> tuple[Cache, list[Place]] | None:
        """The cache that was kept last and what its positions hold, to look at; None without any."""
        with self._lock:
            return (self._held[-1].cache, self._held[-1].places) if self._held else None

    def counts(self) -> CacheCounts:
        """What it holds now, and how many prompts have found their beginning there."""
        with self._lock:
            size = sum(one.num_bytes for one in self._held)
            return CacheCounts(size, len(self._held), self._hits, self._misses)


def _places(chosen: Sequence[Position]) -> list[Place]:
    digests: dict[int, bytes] = {}  # of each item, which has many positions
    found: list[Place] = []
    for one in chosen:
        if not isinstance(one, MediaPosition):
            found.append(one)
            continue
        if id(one.item) not in digests:
            digests[id(one.item)] = digest_of(one.item)
        found.append((one.modality, digests[id(one.item)], one.offset))
    return found
