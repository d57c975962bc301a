"""What a language model keeps of the tokens it has read, so that the next ones cost only themselves."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.models.language._cache_stores import UNPADDED, Store


class RowContext(Protocol):
    """What a fusion keeps beside the cache, row by row (models.fusion.Context); each method returns another one."""

    def select(self, rows: Tensor) -> Any:
        """int64[R]"""

    def crop(self, length: Any) -> Any:
        """Tokens of a row that stay: a number, or int64[B, 1] where rows have padding."""

    def at(self, positions: Tensor) -> Any:
        """int64[R, n], where the tokens that are read next are in their rows"""

    def followed_by(self, later: Any) -> Any:
        """With the media of a further turn"""


class Cache:
    """The first `length` columns of B rows, as `LanguageModel.new_cache` makes it and `forward` fills it.

    length   columns read so far, padding included
    mask     bool[B, >= length], False = padding; None when no row has any. Columns it does not cover are tokens
    context  what the fusion's layers inside the model see of these rows (Fusion.prepare); it lives as long
    """

    def __init__(self, store: Store, mask: Tensor | None = None) -> None:
        """raises ValueError for padded rows of a model that cannot leave padding out"""
        self.store = store
        self.mask: Tensor | None = None
        if mask is not None:
            self.pad(mask)
        self.length = 0
        self.num_rows = 0  # B, once something was read
        self.context: RowContext | None = None

    def pad(self, mask: Tensor) -> None:
        """Say which of the columns that are about to be read are padding; see LanguageModel.new_cache."""
        if bool(mask.all()):
            return
        if not self.store.paddable:
            raise ValueError(UNPADDED)
        self.mask = mask.bool()

    def become(self, other: Cache) -> None:
        """Hold what the other one holds, for callers who have this one."""
        vars(self).update(vars(other))

    def advance(self, embeds: Tensor) -> None:
        """Count columns that were read."""
        self.num_rows = embeds.shape[0]
        self.length += embeds.shape[1]

    def columns(self, num_new: int) -> Tensor | None:
        """bool[B, length + num_new], False = padding; None when there is none."""
        if self.mask is None:
            return None
        self.mask = F.pad(self.mask, (0, max(self.length + num_new - self.mask.shape[1], 0)), value=True)
        return self.mask[:, : self.length + num_new]

    def positions(self, num_new: int, device: torch.device) -> Tensor:
        """int64[B or 1, num_new] of the next columns: how many tokens of the row come before each."""
        columns = self.columns(num_new)
        if columns is None:
            return torch.arange(self.length, self.length + num_new, device=device)[None]
        return (columns.cumsum(1) - 1).clamp(min=0)[:, -num_new:]

    def portions(self, embeds: Tensor) -> tuple[Tensor, ...]:
        """What layers read at a time: a running state that has begun goes on column by column, as Mamba needs it."""
        is_running = self.length > 0 and not self.store.croppable
        return embeds.split(1, 1) if is_running else (embeds,)

    def positions_in_layers(self, num_new: int, device: torch.device) -> Tensor:
        """int64[B or 1, n] of the columns that pass through the layers when the next ones are read."""
        if self.store.rereads:
            return torch.arange(self.length + num_new, device=device)[None]
        return self.positions(num_new, device)

    def crop(self, length: int) -> None:
        """Forget all columns from `length` on: what follows is as if they had never been read.

        raises   ValueError when it holds fewer, or when the model keeps a state that cannot be taken back
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"the cache holds {self.length} columns; crop takes 0 to {self.length}, found {length}")
        if length == self.length:
            return
        if length and not self.store.croppable:
            raise ValueError(
                f"the cache cannot be cropped from {self.length} to {length} columns: this language model keeps one "
                "running state, not keys and values of every token; make a new cache and read the row again"
            )
        if not length:
            self.become(Cache(self.store.empty()))
            return
        self.store.crop(self.length - length)
        self.length = length
        self.mask = None if self.mask is None else self.mask[:, :length]
        num_tokens = length if self.mask is None else self.mask.sum(1, keepdim=True)
        self.context = None if self.context is None else self.context.crop(num_tokens)

    def keep(self, rows: Sequence[int] | Tensor) -> None:
        """Keep these rows alone, in this order; a row may come more than once."""
        index = torch.as_tensor(rows, dtype=torch.long)
        self.store.keep(index)
        self.num_rows = len(index)
        self.mask = None if self.mask is None else self.mask[index.to(self.mask.device)]
        self.context = None if self.context is None else self.context.select(index)

    def select(self, rows: Sequence[int] | Tensor) -> Cache:
        """A cache of these rows, of its own."""
        found = copy.copy(self)
        found.store = self.store.copy()
        found.keep(rows)
        return found

    def __len__(self) -> int:
        return self.length


def joined(caches: Sequence[Cache], context: RowContext | None = None) -> Cache:
    """One cache with the rows of all, in order, moved to the right edge where they are shorter. The caches are used up.

    context  of all rows, where the caller has it: it counts tokens, not columns, so moving rows leaves it as it is
    raises   ValueError for a model whose rows cannot be moved
    """
    first, *others = caches
    length = max(cache.length for cache in caches)
    padding = [length - cache.length for cache in caches]
    if any(padding) and not first.store.paddable:
        raise ValueError(f"rows of different lengths cannot share a cache: {UNPADDED}")
    masks = [_mask_of(cache, columns) for cache, columns in zip(caches, padding, strict=True)]
    device = next((cache.mask.device for cache in caches if cache.mask is not None), None)
    first.store.join([cache.store for cache in others], padding)
    mask = torch.cat([one.to(device) for one in masks])
    first.mask, first.length = None if bool(mask.all()) else mask, length
    first.num_rows = sum(cache.num_rows for cache in caches)
    first.context = _joined_contexts([cache.context for cache in caches]) if context is None else context
    return first


def _joined_contexts(contexts: Sequence[Any]) -> Any:
    known = [context for context in contexts if context is not None]
    return type(known[0]).join(known) if known else None


def _mask_of(cache: Cache, padding: int) -> Tensor:
    columns = cache.columns(0)
    if columns is None:
        columns = torch.ones(cache.num_rows, cache.length, dtype=torch.bool)
    return F.pad(columns, (padding, 0), value=False)


__all__ = ["Cache", "joined"]
