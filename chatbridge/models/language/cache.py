"""The KV cache of a language model, with its padding mask and the context of the fusion."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.models.language._cache_stores import UNPADDED, Store

ROOM = 128  # columns that a mask grows by


class RowContext(Protocol):
    """The context of a fusion that belongs to the cached sequences; see models.fusion.Context."""

    def select(self, rows: Tensor) -> Any:
        """The sequences with these indices, int64[R]."""

    def crop(self, length: Any) -> Any:
        """The media before `length` tokens: a number, or int64[B, 1] if sequences have padding."""

    def at(self, positions: Tensor) -> Any:
        """The same media for the positions of the next tokens, int64[R, n]."""

    def followed_by(self, later: Any) -> Any:
        """These media and those of the next turn."""

    def without_media(self, num_rows: int) -> Any:
        """The context of other sequences without media."""


class Cache:
    """The first `length` columns of B sequences; `LanguageModel.new_cache` creates it and `forward` fills it.

    length   columns read so far, padding included
    mask     bool[B, any], False = padding; None without padding. Columns after its end are tokens
    context  media for the fusion's layers inside the model (Fusion.prepare), with the same lifetime
    """

    def __init__(self, store: Store, mask: Tensor | None = None) -> None:
        """
        mask     bool[B, L], False = padding
        raises   ValueError for padding if the model cannot mask it
        """
        self.store = store
        self.mask = None
        if mask is not None:
            self.pad(mask)
        self.length = 0
        self.num_rows = 0  # B, once something was read
        self.device = torch.device("cpu") if mask is None else mask.device  # of what was read
        self.context: RowContext | None = None

    @property
    def mask(self) -> Tensor | None:
        """bool[B, any], see the class"""
        return self._mask

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        """bool[B, any]"""
        self._mask, self._num_padding = mask, None
        self._width = 0 if mask is None else mask.shape[1]  # columns after it are tokens

    def pad(self, mask: Tensor) -> None:
        """Set which of the columns to be read are padding.

        mask     bool[B, L], False = padding; see LanguageModel.new_cache
        raises   ValueError for padding if the model cannot mask it
        """
        if bool(mask.all()):
            return
        if not self.store.paddable:
            raise ValueError(UNPADDED)
        self.mask = mask.bool()

    def become(self, other: Cache) -> None:
        """Replace the content by that of the other cache; references to this object stay valid."""
        vars(self).update(vars(other))

    def advance(self, embeds: Tensor) -> None:
        """Count the columns of `embeds`, float[B, n, D], as read."""
        self.num_rows, self.device = embeds.shape[0], embeds.device
        self.length += embeds.shape[1]

    def columns(self, num_new: int) -> Tensor | None:
        """The padding mask including `num_new` new columns: bool[B, length + num_new], False = padding, or None."""
        if self._mask is None:
            return None
        width = self.length + num_new
        if width > self._mask.shape[1]:  # with room for further ones
            self._mask = F.pad(self._mask, (0, width - self._mask.shape[1] + ROOM), value=True)
        return self._mask[:, :width]

    def positions(self, num_new: int, device: torch.device) -> Tensor:
        """The positions of the next columns, int64[B or 1, num_new]: the number of tokens before each."""
        if self._mask is None or self.length < self._width:
            columns = self.columns(num_new)
            if columns is None:
                return torch.arange(self.length, self.length + num_new, device=device)[None]
            return (columns.cumsum(1) - 1).clamp(min=0)[:, -num_new:]
        if self._num_padding is None:
            self._num_padding = (~self._mask).sum(1, keepdim=True)  # [B, 1]
        return torch.arange(self.length, self.length + num_new, device=self._mask.device) - self._num_padding

    def portions(self, embeds: Tensor) -> tuple[Tensor, ...]:
        """Split the next columns into parts for one forward pass each.

        A recurrent state is continued column by column, as Mamba requires.
        embeds   float[B, n, D]
        returns  float[B, n, D] at once, or n times float[B, 1, D]
        """
        is_running = self.length > 0 and not self.store.croppable
        return embeds.split(1, 1) if is_running else (embeds,)

    def positions_in_layers(self, num_new: int, device: torch.device) -> Tensor:
        """The positions of all columns in the next forward pass, int64[B or 1, n]."""
        if self.store.rereads:
            return torch.arange(self.length + num_new, device=device)[None]
        return self.positions(num_new, device)

    def crop(self, length: int) -> None:
        """Remove all columns from `length` on, as if they had never been read.

        raises   ValueError when the cache has fewer columns, or the model has a recurrent state
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"the cache has {self.length} columns; crop accepts 0 to {self.length}, found {length}")
        if length == self.length:
            return
        if length and not self.store.croppable:
            raise ValueError(
                f"the cache cannot be cropped from {self.length} to {length} columns: this language model has one "
                "recurrent state instead of keys and values per token; create a new cache and read the sequence again"
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
        """Keep the sequences with these indices, int64[R], in this order; an index may occur several times."""
        index = torch.as_tensor(rows, dtype=torch.long)
        self.store.keep(index)
        self.num_rows = len(index)
        if self.mask is not None:
            self.mask = self.mask[index.to(self.mask.device), : max(self.length, self._width)]
        self.context = None if self.context is None else self.context.select(index)

    def select(self, rows: Sequence[int] | Tensor) -> Cache:
        """A separate cache of the sequences with these indices, int64[R]."""
        found = copy.copy(self)
        found.store = self.store.copy()
        found.keep(rows)
        return found

    def trim(self) -> None:
        """Remove the columns on the left that are padding in all sequences."""
        if (columns := self.columns(0)) is None or not self.length:
            return
        first = columns.long().argmax(1)  # [B], of the first token
        *starts, num_padding = torch.cat([first, (~columns).sum()[None]]).tolist()
        num_removed = min(starts)
        if num_removed:
            self.store.trim(num_removed)
            self.length -= num_removed
        is_padded = num_padding > num_removed * len(starts)
        self.mask = columns[:, num_removed:] if is_padded else None

    def alone(self, row: int) -> Cache:
        """A separate cache of one sequence, without its padding."""
        found = self.select([row])
        found.trim()
        return found

    def __len__(self) -> int:
        return self.length


def joined(caches: Sequence[Cache], context: RowContext | None = None) -> Cache:
    """One cache with the sequences of all caches, in order; shorter ones are padded on the left.

    The caches must not be used afterwards.
    context  of all sequences, if the caller has it; it counts tokens, not columns, so padding does not change it
    raises   ValueError for sequences of different lengths if the model cannot mask padding
    """
    first, *others = caches
    rows = [cache.num_rows for cache in caches]
    length = max(cache.length for cache in caches)
    padding = [length - cache.length for cache in caches]
    if any(padding) and not first.store.paddable:
        raise ValueError(f"sequences of different lengths cannot share a cache: {UNPADDED}")
    masks = [_mask_of(cache, columns) for cache, columns in zip(caches, padding, strict=True)]
    mask = torch.cat(masks)
    is_padded = any(padding) or (not all(cache.mask is None for cache in caches) and not bool(mask.all()))
    context = _joined_contexts(caches, rows) if context is None else context
    first.store.join([cache.store for cache in others], padding)  # where memory ends, `first` is as before
    first.mask, first.length = mask if is_padded else None, length
    first.num_rows, first.context = sum(rows), context
    return first


def _joined_contexts(caches: Sequence[Cache], rows: Sequence[int]) -> Any:
    """One context for all; sequences that have none have no media."""
    known: Any = next((cache.context for cache in caches if cache.context is not None), None)
    if known is None:
        return None
    found = [
        known.without_media(number) if cache.context is None else cache.context
        for cache, number in zip(caches, rows, strict=True)
    ]
    return type(known).join(found)


def _mask_of(cache: Cache, padding: int) -> Tensor:
    columns = cache.columns(0)
    if columns is None:
        columns = torch.ones(cache.num_rows, cache.length, dtype=torch.bool, device=cache.device)
    return F.pad(columns, (padding, 0), value=False)


__all__ = ["Cache", "joined"]
