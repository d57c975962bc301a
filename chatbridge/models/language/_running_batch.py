"""The sequences that a decoding continues: their cache, and what of them is not read yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.models.language._cache_stores import UNPADDED
from chatbridge.models.language._rows_apart import RowApart, read_apart
from chatbridge.models.language.base import LanguageModel
from chatbridge.models.language.cache import Cache, joined
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.models.language.reading import Show, read_columns, see


class RunningBatch:
    """R sequences that are read together, column by column.

    active  their numbers, in the order of the batch
    cache   what was read of them
    states  float[R, D], those of the last column that was read; before the first one, of its shape, dtype and device
    unread  float[R, n, D], what comes next; None: everything is read
    is_torn  whether a reading of all failed within the model: layers may have read different numbers of columns
    """

    def __init__(self, language: LanguageModel, cache: Cache, prompts: EmbeddedPrompts | None = None) -> None:
        """
        cache    empty, or with what comes before the prompts
        prompts  None: no sequences yet
        """
        self.language, self.cache = language, cache
        self.active: list[int] = []
        self.is_torn = False
        self.states = torch.zeros(0, language.width)
        self.unread: Tensor | None = None
        self._mask: Tensor | None = None  # of `unread`, for continuations of different lengths
        self._show: Show | None = None
        self._apart: dict[int, RowApart] = {}  # sequences that continue from an earlier point
        if prompts is not None:
            self.active = list(range(len(prompts.embeds)))
            self.unread, self.states, self._show = prompts.embeds, prompts.embeds[:, -1], prompts.show
            self._mask = prompts.mask if prompts.is_ragged else None
            if self._mask is not None and not cache.length:
                cache.pad(self._mask)
            see(cache, prompts.context)

    def __len__(self) -> int:
        return len(self.active)

    @property
    def can_grow(self) -> bool:
        """Whether another sequence may join: not if one is apart, or the model cannot mask the padding it brings."""
        return not self._apart and (not self.active or self.cache.store.paddable)

    def read(self) -> Tensor:
        """Run the language model over what is unread; returns `states`, float[R, D]."""
        embeds, self.unread = self.unread, None
        if embeds is None:  # a sequence has joined since
            return self.states
        self.is_torn = True
        mask, self._mask = self._mask, None
        apart, self._apart = [(self.active.index(row), one) for row, one in self._apart.items()], {}
        if apart:
            self.states = read_apart(self.cache, embeds, apart, self._read_into)
        elif mask is not None and self.cache.length:
            self._read_each(embeds, mask)
        else:
            self.states = self._read_into(self.cache, embeds)
        self.is_torn = False
        return self.states

    def _read_each(self, embeds: Tensor, mask: Tensor) -> None:
        """Continue cached sequences by different lengths, one by one, so that no padding comes in between."""
        lengths = mask.sum(1).tolist()
        parts = [self.cache.select([row]) for row in range(len(embeds))]
        rows = [embeds[row : row + 1, -length:] for row, length in enumerate(lengths)]
        self.states = torch.cat([self._read_into(part, row) for part, row in zip(parts, rows, strict=True)])
        self.cache.become(joined(parts, self.cache.context))

    def _read_into(self, cache: Cache, embeds: Tensor) -> Tensor:
        """float[R, n, D] -> the states of the last column, float[R, D]"""
        *_, states = read_columns(self.language, cache, embeds, self._show)
        return states[:, -1]

    def join(self, row: int, prompt: EmbeddedPrompts, part: Cache) -> None:
        """Read one more sequence, float[1, n, D] after what its own cache has, and let it join the others.

        raises   ValueError if the model cannot mask padding. After any exception, the others are as before, unless
                 `is_torn`
        """
        if not self.can_grow:
            raise ValueError(f"another sequence is running: {UNPADDED}")
        see(part, prompt.context)
        self._show = prompt.show
        states = self._read_into(part, prompt.embeds)
        if self.active:
            self.read()
            self.states, self.cache = torch.cat([self.states, states]), joined([self.cache, part])
        else:
            self.states, self.cache = states, part
        self.active.append(row)

    def keep(self, staying: Sequence[int], trim: bool) -> None:
        """Remove all sequences except those at these places of the batch.

        trim   whether padding that the others share goes too, and the cache of the last one; their numbers may differ
               in the last bit then
        """
        leaving = [row for at, row in enumerate(self.active) if at not in staying]
        for row in leaving:
            self._apart.pop(row, None)
        self.active = [self.active[at] for at in staying]
        if self.active:
            self.states = self.states[staying]
            self.unread = None if self.unread is None else self.unread[staying]
            self._mask = None if self._mask is None else self._mask[staying]
            self.cache.keep(staying)
        else:
            self.unread = self._mask = None
        if trim and self.active:
            self.cache.trim()
        elif trim:
            self.cache = self.language.new_cache()

    def append(self, embeds: Tensor, context: Any = None, row: int | None = None) -> None:
        """See Decoding.append; embeds float[R, n, D]"""
        embeds = embeds.to(self.states.dtype)
        if row is not None:
            self._apart[row].see(context)
            self._apart[row].append(embeds)
            return
        if len(embeds) != len(self.active):
            raise ValueError(f"{len(embeds)} sequences cannot be appended to {len(self.active)} unfinished answers")
        see(self.cache, context)
        self.unread = torch.cat([*([] if self.unread is None else [self.unread]), embeds], 1)
        self._mask = None if self._mask is None else F.pad(self._mask, (0, embeds.shape[1]), value=True)

    def take_back(self, row: int, num_ids: int) -> None:
        """See Decoding.take_back."""
        part = self.cache.select([self.active.index(row)])
        part.crop(part.length - (num_ids - 1))  # the last id has not been read
        self._apart[row] = RowApart(part)

    def restart(self, row: int, prompt: EmbeddedPrompts) -> None:
        """See Decoding.restart."""
        self._apart[row] = RowApart(self.language.new_cache())
        self.append(prompt.embeds, prompt.context, row)

    def context_of(self, row: int | None) -> Any:
        """See Decoding.context_of."""
        return (self.cache if row is None else self._apart[row].cache).context

    def next_positions(self, row: int | None) -> Tensor:
        """int64[R, 1], or int64[1, 1] for one; see Decoding.next_positions."""
        device = self.states.device
        if row is not None and (apart := self._apart.get(row)) is not None:
            num_unread = 0 if apart.embeds is None else apart.embeds.shape[1]
            return apart.cache.positions(num_unread + 1, device)[:, -1:]
        if self._mask is not None and self.cache.length:  # continuations of different lengths that are not read yet
            found = self.cache.positions(1, self._mask.device) + self._mask.sum(1, keepdim=True)
        else:
            num_unread = 0 if self.unread is None else self.unread.shape[1]
            found = self.cache.positions(num_unread + 1, device)[:, -1:].expand(len(self.active), -1)
        return found if row is None else found[[self.active.index(row)]]


__all__ = ["RunningBatch"]
