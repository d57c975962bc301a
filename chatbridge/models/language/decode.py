"""The decode loop for greedy and sampled answers: forward pass, choose the next token, stop. For all model families.

Beam search has the same interface (generation.py) but runs in transformers' `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.conversation.stop_strings import BatchStops, Stops, stops_per_sequence
from chatbridge.models.language._cache_stores import UNPADDED
from chatbridge.models.language._rows_apart import RowApart, read_apart
from chatbridge.models.language._token_sampling import Processors, TokenSampler
from chatbridge.models.language.base import LanguageModel
from chatbridge.models.language.cache import Cache, joined
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.models.language.generate_options import GenerateOptions
from chatbridge.models.language.reading import read_columns

OnId = Callable[[int, int], None]  # (prompt number, new id), called for each id; an exception ends the generation
Precision = Callable[[], AbstractContextManager[Any]]


class Generation(Protocol):
    """A running generation of answers to any number of prompts."""

    @property
    def answers(self) -> list[list[int]]:
        """Ids of each answer so far; a finished one has no stop sequence or end token."""
        ...

    @property
    def is_done(self) -> bool:
        """Whether all answers are finished."""
        ...

    def step(self) -> dict[int, int]:
        """Add an id to each unfinished answer: prompt number -> id, also those of stop sequences and end tokens."""
        ...


class Decoding:
    """A generation of R answers by one token per step; a finished sequence leaves the batch.

    chosen   all new ids of each prompt, including its stop sequence and end token
    answers  the same without them, for finished answers
    cache    with the caller's cache, at the end: all sequences, with prompts and chosen ids except the last of each

    The ids of a step are read at the beginning of the next one, so stopping early costs nothing.
    """

    def __init__(
        self,
        language: LanguageModel,
        prompts: EmbeddedPrompts,
        options: Sequence[GenerateOptions],
        stops: Sequence[Stops] = (),
        cache: Cache | None = None,
        processors: Processors = (),
        precision: Precision = nullcontext,
    ) -> None:
        """
        options     of each prompt
        stops       of each prompt, or none
        cache       of the caller, empty or with earlier tokens of these sequences; None: a temporary one
        processors  additional logits processors of transformers; like those of the options they get only new ids
        precision   context manager around every step, for autocast
        raises      ValueError if the model cannot mask padding, for prompts of different lengths, or for several
                    prompts with a cache of the caller: their answers end at different lengths
        """
        num_rows = len(prompts.embeds)
        self.language = language
        self.chosen: list[list[int]] = [[] for _ in range(num_rows)]
        self.answers: list[list[int]] = [[] for _ in range(num_rows)]
        self.cache = language.new_cache() if cache is None else cache
        self._options, self._stops = options, stops_per_sequence(stops, num_rows)
        self._choice = TokenSampler(list(options), language.end_ids, prompts.embeds.device, processors)
        self._active = list(range(num_rows))
        self._show, self._precision = prompts.show, precision
        self._is_kept = cache is not None and num_rows > 1
        if self._is_kept and not self.cache.store.paddable:
            raise ValueError(f"{num_rows} sequences cannot be kept in one cache: {UNPADDED}")
        self._gone: dict[int, Cache] = {}  # finished sequences, if the caller's cache keeps all
        self._apart: dict[int, RowApart] = {}  # sequences that continue from an earlier point
        self._unread: Tensor | None = prompts.embeds
        self._states = prompts.embeds[:, -1]
        self._mask = prompts.mask if prompts.is_ragged else None
        if self._mask is not None and not self.cache.length:
            self.cache.pad(self._mask)
        self._see(prompts.context)

    @property
    def is_done(self) -> bool:
        return not self._active

    @property
    def unfinished(self) -> tuple[int, ...]:
        """The prompts whose answers are not finished."""
        return tuple(self._active)

    @torch.no_grad()
    def step(self) -> dict[int, int]:
        with self._precision():
            self._read()
            found = dict(zip(self._active, self._choice.next(self.language.logits(self._states)), strict=True))
            staying = [at for at, (row, new) in enumerate(found.items()) if not self._ends_with(row, new)]
            self._unread = self._embedded([found[self._active[at]] for at in staying])
        if len(staying) < len(self._active):
            self._leave(staying)
        return found

    @torch.no_grad()
    def append(self, embeds: Tensor, context: Any = None, row: int | None = None) -> None:
        """Append embeddings to the unfinished answers, after their last id; generation continues after them.

        embeds   float[R, n, D], for example of an image that was drawn in the meantime
        context  of the fusion for these media; its positions start at `next_positions`
        row      only to this answer, which `take_back` or `restart` has prepared; then R is 1
        raises   ValueError when R is not the number of unfinished answers
        """
        if row is not None:
            self._apart[row].see(context)
            self._apart[row].append(embeds.to(self._states.dtype))
            return
        if len(embeds) != len(self._active):
            raise ValueError(f"{len(embeds)} sequences cannot be appended to {len(self._active)} unfinished answers")
        self._see(context)
        before = [] if self._unread is None else [self._unread]
        self._unread = torch.cat([*before, embeds.to(self._states.dtype)], 1)
        self._mask = None if self._mask is None else F.pad(self._mask, (0, embeds.shape[1]), value=True)

    def take_back(self, row: int, num_ids: int) -> None:
        """Remove the last ids of an unfinished answer from what is read; call `append` for this row next.

        `chosen` and `answers` keep their ids, and other answers continue as they are.
        raises   ValueError for a model whose cache cannot be cropped
        """
        part = self.cache.select([self._active.index(row)])
        part.crop(part.length - (num_ids - 1))  # the last id has not been read
        self._apart[row] = RowApart(part)

    def restart(self, row: int, prompt: EmbeddedPrompts) -> None:
        """Read the whole sequence of an unfinished answer again: its prompt, and what the answer has so far."""
        self._apart[row] = RowApart(self.language.new_cache())
        self.append(prompt.embeds, prompt.context, row)

    def finish(self, row: int) -> None:
        """End an answer before its next id, for example where the context is full."""
        self._apart.pop(row, None)
        staying = [at for at, one in enumerate(self._active) if one != row]
        self._unread = None if self._unread is None or not staying else self._unread[staying]
        self._leave(staying)

    def context_of(self, row: int | None = None) -> Any:
        """The context of the fusion for what was read: of all unfinished answers, or of one that is apart."""
        return (self.cache if row is None else self._apart[row].cache).context

    def next_positions(self, row: int | None = None) -> Tensor:
        """The position of the first embedding that `append` adds next, int64[R, 1], or int64[1, 1] for one answer."""
        device = self._states.device
        if row is not None and (apart := self._apart.get(row)) is not None:
            num_unread = 0 if apart.embeds is None else apart.embeds.shape[1]
            return apart.cache.positions(num_unread + 1, device)[:, -1:]
        if self._mask is not None and self.cache.length:  # continuations of different lengths that are not read yet
            found = self.cache.positions(1, self._mask.device) + self._mask.sum(1, keepdim=True)
        else:
            num_unread = 0 if self._unread is None else self._unread.shape[1]
            found = self.cache.positions(num_unread + 1, device)[:, -1:].expand(len(self._active), -1)
        return found if row is None else found[[self._active.index(row)]]

    def _see(self, context: Any) -> None:
        if context is not None:
            before = self.cache.context
            self.cache.context = context if before is None else before.followed_by(context)

    def _read(self) -> None:
        """Run the language model over the unread embeddings, and keep the states of the last column."""
        embeds, self._unread = self._unread, None
        assert embeds is not None, "every step leaves unread embeddings"
        mask, self._mask = self._mask, None
        apart, self._apart = [(self._active.index(row), one) for row, one in self._apart.items()], {}
        if apart:
            self._states = read_apart(self.cache, embeds, apart, self._read_into)
        elif mask is not None and self.cache.length:
            self._read_each(embeds, mask)
        else:
            self._states = self._read_into(self.cache, embeds)

    def _read_each(self, embeds: Tensor, mask: Tensor) -> None:
        """Continue cached sequences by different lengths, one by one, so that no padding comes in between."""
        lengths = mask.sum(1).tolist()
        parts = [self.cache.select([row]) for row in range(len(embeds))]
        rows = [embeds[row : row + 1, -length:] for row, length in enumerate(lengths)]
        self._states = torch.cat([self._read_into(part, row) for part, row in zip(parts, rows, strict=True)])
        self.cache.become(joined(parts, self.cache.context))

    def _read_into(self, cache: Cache, embeds: Tensor) -> Tensor:
        """float[R, n, D] -> the states of the last column, float[R, D]"""
        *_, states = read_columns(self.language, cache, embeds, self._show)
        return states[:, -1]

    def _ends_with(self, row: int, new: int) -> bool:
        """Add an id to an answer; returns whether the answer is finished."""
        answer = self.answers[row]
        self.chosen[row].append(new)
        if new in self.language.end_ids:
            return True
        answer.append(new)
        if (end := self._stops[row].end(answer)) is not None:
            del answer[end:]
            return True
        return len(answer) >= self._options[row].max_new_tokens

    def _embedded(self, ids: list[int]) -> Tensor | None:
        """The embeddings of R ids, float[R, 1, D], or None without ids."""
        return self.language.embed(torch.tensor(ids, device=self._states.device)[:, None]) if ids else None

    def _leave(self, staying: list[int]) -> None:
        """Remove all sequences except these from the batch; a cache of the caller gets them back at the end."""
        if self._is_kept and (staying or self._gone):
            leaving = [at for at in range(len(self._active)) if at not in staying]
            self._gone |= {self._active[at]: self.cache.select([at]) for at in leaving}
        self._active = [self._active[at] for at in staying]
        if staying:
            self.cache.keep(staying)
            self._choice.keep(staying)
        elif self._gone:
            self.cache.become(joined([self._gone[row] for row in sorted(self._gone)]))


__all__ = ["Generation", "Decoding", "OnId", "Precision", "BatchStops"]
