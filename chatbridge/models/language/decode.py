"""The one loop that answers: read, choose, stop, read on. Greedy and sampled, for all families and all callers.

Beams are the exception: transformers' `generate` keeps them, behind the same interface (beams.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.conversation.stop_strings import BatchStops, Stops, stops_per_sequence
from chatbridge.models.language._cache_stores import UNPADDED
from chatbridge.models.language._token_sampling import Processors, TokenSampler
from chatbridge.models.language.base import LanguageModel
from chatbridge.models.language.cache import Cache, joined
from chatbridge.models.language.generate_options import GenerateOptions

OnId = Callable[[int, int], None]  # (row, its new id), called while they come; what it raises ends the generation
Precision = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class EmbeddedPrompts:
    """What R rows are asked with.

    embeds   float[R, L, D], padded on the left; beside a cache, what comes after its rows
    mask     bool[R, L], False = padding; None when there is none
    context  what the fusion's layers inside the language model see of them (Fusion.prepare)
    show     tells those layers a context; None for a model without a fusion
    """

    embeds: Tensor
    mask: Tensor | None = None
    context: Any = None
    show: Callable[[Any], None] | None = None

    @property
    def is_ragged(self) -> bool:
        return self.mask is not None and not bool(self.mask.all())

    def alone(self, row: int) -> EmbeddedPrompts:
        """One of the rows, without its padding."""
        length = self.embeds.shape[1] if self.mask is None else int(self.mask[row].sum())
        context = None if self.context is None else self.context.select(torch.tensor([row]))
        return replace(self, embeds=self.embeds[row : row + 1, -length:], mask=None, context=context)


def left_padded(rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Move right-padded rows to the right edge, where new words continue them.

    rows     float[B, L, D]
    lengths  int64[B]
    returns  float[B, L, D] with zeros on the left, and bool[B, L], False = padding
    """
    length = rows.shape[1]
    source = torch.arange(length, device=rows.device)[None] - (length - lengths[:, None])  # [B, L]
    mask = source >= 0
    moved = rows.gather(1, source.clamp(min=0)[..., None].expand_as(rows))
    return moved * mask[..., None], mask


class Generation(Protocol):
    """Answers that grow, to any number of rows."""

    @property
    def answers(self) -> list[list[int]]:
        """Ids of each row so far; without a stop sequence or end token once the row is done."""
        ...

    @property
    def is_done(self) -> bool: ...

    def step(self) -> dict[int, int]:
        """One more id for each row that is not done, those of an end or a stop sequence included: row -> id"""
        ...


class Decoding:
    """R rows that grow by one token a step; a row that is done leaves the batch, and costs nothing from then on.

    chosen   all new ids of each row, those of its stop sequence and its end token included
    answers  the same without them, once the row is done
    cache    once all rows are done and `is_kept`, it holds all rows: prompts and chosen ids but for the last of each,
             which nobody has read

    Ids are read when the next ones are asked for: a generation that is left costs nothing more.
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
        options     of each row
        stops       of each row, or none
        cache       the caller's, of earlier tokens of these rows or of none; None: one that is gone with the rows
        processors  more of transformers' logits processors; like those of the options they see new ids alone
        precision   entered around every step, for autocast
        raises      ValueError for padded rows of a model that cannot leave padding out, and for several rows that
                    `cache` shall keep of such a model: they end at different lengths
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
            raise ValueError(f"{num_rows} rows cannot be kept in one cache: {UNPADDED}")
        self._gone: dict[int, Cache] = {}  # rows that are done, where all of them are kept
        self._unread: Tensor | None = prompts.embeds
        self._states = prompts.embeds[:, -1]
        self._mask = prompts.mask if prompts.is_ragged else None
        if self._mask is not None and not self.cache.length:
            self.cache.pad(self._mask)
        self._see(prompts.context)

    @property
    def is_done(self) -> bool:
        return not self._active

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
    def append(self, embeds: Tensor, context: Any = None) -> None:
        """Put more than words into the rows that are not done, after their last id: the answer goes on from there.

        embeds   float[R, n, D], for example of an image that was drawn meanwhile
        context  what the fusion's layers see of it; its positions count on from `next_position`
        raises   ValueError when the rows that are not done are not R
        """
        if len(embeds) != len(self._active):
            raise ValueError(f"{len(embeds)} rows are appended to {len(self._active)} that are not done")
        self._see(context)
        before = [] if self._unread is None else [self._unread]
        self._unread = torch.cat([*before, embeds.to(self._states.dtype)], 1)
        self._mask = None if self._mask is None else F.pad(self._mask, (0, embeds.shape[1]), value=True)

    def take_back(self, length: int) -> None:
        """Forget the columns of the cache from `length` on, and what was not read yet; `append` says what goes on
        there. The ids stay in `chosen` and `answers`.

        raises   ValueError for a model whose cache cannot be cropped
        """
        self.cache.crop(length)
        self._unread = self._mask = None

    def next_positions(self) -> Tensor:
        """int64[R, 1], the position in its row of what `append` takes next"""
        if self._mask is not None and self.cache.length:  # rows that go on by different lengths, not read yet
            return self.cache.positions(1, self._mask.device) + self._mask.sum(1, keepdim=True)
        num_unread = 0 if self._unread is None else self._unread.shape[1]
        return self.cache.positions(num_unread + 1, self._states.device)[:, -1:].expand(len(self._active), -1)

    def _see(self, context: Any) -> None:
        if context is not None:
            before = self.cache.context
            self.cache.context = context if before is None else before.followed_by(context)

    def _read(self) -> None:
        """Bring the states of the last column up to date."""
        embeds, self._unread = self._unread, None
        assert embeds is not None, "every step leaves something to read"
        mask, self._mask = self._mask, None
        if mask is not None and self.cache.length:
            self._read_each(embeds, mask)
        else:
            self._states = self._read_into(self.cache, embeds)

    def _read_each(self, embeds: Tensor, mask: Tensor) -> None:
        """Rows of a cache that go on by different lengths: one by one, so that no padding comes between."""
        lengths = mask.sum(1).tolist()
        parts = [self.cache.select([row]) for row in range(len(embeds))]
        rows = [embeds[row : row + 1, -length:] for row, length in enumerate(lengths)]
        self._states = torch.cat([self._read_into(part, row) for part, row in zip(parts, rows, strict=True)])
        self.cache.become(joined(parts, self.cache.context))

    def _read_into(self, cache: Cache, embeds: Tensor) -> Tensor:
        """float[R, n, D] -> float[R, D], states of the last column"""
        states = embeds
        for portion in cache.portions(embeds):
            num_new = portion.shape[1]
            if self._show is not None:
                rows = cache.positions_in_layers(num_new, embeds.device).expand(len(embeds), -1)
                self._show(None if cache.context is None else cache.context.at(rows))
            states = self.language(portion, cache.positions(num_new, embeds.device), cache=cache)
        return states[:, -1]

    def _ends_with(self, row: int, new: int) -> bool:
        """Add an id to the answer of a row; whether it is done."""
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
        """float[R, 1, D] of ids that were chosen and not read yet"""
        return self.language.embed(torch.tensor(ids, device=self._states.device)[:, None]) if ids else None

    def _leave(self, staying: list[int]) -> None:
        """Let the other rows go."""
        if self._is_kept and (staying or self._gone):
            leaving = [at for at in range(len(self._active)) if at not in staying]
            self._gone |= {self._active[at]: self.cache.select([at]) for at in leaving}
        self._active = [self._active[at] for at in staying]
        if staying:
            self.cache.keep(staying)
            self._choice.keep(staying)
        elif self._gone:
            self.cache.become(joined([self._gone[row] for row in sorted(self._gone)]))


__all__ = ["Generation", "Decoding", "OnId", "Precision", "EmbeddedPrompts", "BatchStops"]
