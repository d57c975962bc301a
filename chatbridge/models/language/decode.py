"""The decode loop for greedy and sampled answers: forward pass, choose the next token, stop. For all model families.

Beam search has the same interface (generation.py) but runs in transformers' `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from chatbridge.conversation.stop_strings import BatchStops, Stops, stops_per_sequence
from chatbridge.models.language._cache_stores import UNPADDED
from chatbridge.models.language._decoded_row import DecodedRow
from chatbridge.models.language._running_batch import RunningBatch
from chatbridge.models.language._token_sampling import Chosen, Processors, TokenSampler
from chatbridge.models.language.base import LanguageModel
from chatbridge.models.language.cache import Cache, joined
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.models.language.generate_options import GenerateOptions

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
    """A generation of answers by one token per step. A finished sequence leaves the batch; `admit` adds one.

    rows   number of a prompt -> its answer, with ids and why it ended; without those that were released

    The ids of a step are read at the beginning of the next one, so stopping early costs nothing. One thread runs it.
    After a step that raises, the caches of its sequences are undefined.
    """

    def __init__(
        self,
        language: LanguageModel,
        prompts: EmbeddedPrompts | None = None,
        options: Sequence[GenerateOptions] = (),
        stops: Sequence[Stops] = (),
        cache: Cache | None = None,
        processors: Processors = (),
        precision: Precision = nullcontext,
    ) -> None:
        """
        prompts     None: none yet, they are admitted
        options     of each prompt
        stops       of each prompt, or none
        cache       of the caller, empty or with earlier tokens of these sequences; None: a temporary one
        processors  additional logits processors of transformers; like those of the options they get only new ids
        precision   context manager around every step, for autocast
        raises      ValueError if the model cannot mask padding, for prompts of different lengths, or for several
                    prompts with a cache of the caller: their answers end at different lengths
        """
        num_rows = 0 if prompts is None else len(prompts.embeds)
        self.language, self._precision = language, precision
        ends = stops_per_sequence(stops, num_rows)
        self.rows = {row: DecodedRow(*one) for row, one in enumerate(zip(options, ends, strict=True))}
        self._num_rows = num_rows  # that ever were
        self._choice = TokenSampler(language.end_ids, next(language.parameters()).device, processors)
        for one in options:
            self._choice.add(one)
        self._is_callers, self._is_kept = cache is not None, cache is not None and num_rows > 1
        cache = language.new_cache() if cache is None else cache
        if self._is_kept and not cache.store.paddable:
            raise ValueError(f"{num_rows} sequences cannot be kept in one cache: {UNPADDED}")
        self._batch = RunningBatch(language, cache, prompts)
        self._admitted: set[int] = set()
        self._gone: dict[int, Cache] = {}  # finished sequences that were admitted, or if the caller's cache keeps all

    @property
    def cache(self) -> Cache:
        """That of the unfinished sequences; the caller's cache has all of them at the end, with prompts and chosen ids
        except the last of each."""
        return self._batch.cache

    @property
    def chosen(self) -> list[list[int]]:
        """All new ids of each row, including its stop sequence and end token."""
        return [row.chosen for row in self.rows.values()]

    @property
    def answers(self) -> list[list[int]]:
        """The same without them, for finished answers."""
        return [row.answer for row in self.rows.values()]

    @property
    def is_done(self) -> bool:
        return not self._batch.active

    @property
    def is_torn(self) -> bool:
        """Whether a step failed within the model, or the part of one that an admission does first: its sequences
        cannot go on."""
        return self._batch.is_torn

    @property
    def unfinished(self) -> tuple[int, ...]:
        """The prompts whose answers are not finished."""
        return tuple(self._batch.active)

    @torch.no_grad()
    def admit(
        self,
        prompt: EmbeddedPrompts,
        options: GenerateOptions,
        stops: Stops | None = None,
        cache: Cache | None = None,
        top_logprobs: int | None = None,
    ) -> int:
        """Read one more sequence; its first id comes with the next step, and its answer does not depend on the others.

        prompt        of one row; with a cache, what comes after it
        cache         with the beginning of the sequence, owned by the decoding from now on; None: a new one
        top_logprobs  None: no log-probabilities; n: of the chosen ids and of the n most likely ones
        returns       the number of its row, which no other one gets
        raises        ValueError for several prompts, beams, a decoding with a cache of the caller, or a second row if
                      the model cannot mask padding. After any exception while the sequence is read, such as the end of
                      memory, the decoding is as before unless `is_torn`; `cache` is then undefined
        """
        if len(prompt.embeds) != 1:
            raise ValueError(f"one sequence can be admitted at a time, found {len(prompt.embeds)}")
        if options.num_beams > 1:
            raise ValueError(f"num_beams is {options.num_beams}; beams run by themselves, see start_generation")
        if self._is_callers:
            raise ValueError("a decoding with a cache of the caller keeps its sequences; admit to one without")
        row = self._num_rows
        with self._precision():
            part = self.language.new_cache() if cache is None else cache
            self._batch.join(row, prompt if prompt.mask is None else prompt.alone(0), part)
        self._choice.add(options, top_logprobs)
        self.rows[row] = DecodedRow(options, stops or Stops(), top_logprobs)
        self._admitted.add(row)
        self._num_rows += 1
        return row

    def release(self, row: int) -> Cache:
        """End an admitted row if it goes on, and forget it.

        returns  its cache alone: its prompt and chosen ids, except possibly the last
        raises   KeyError for a row that was not admitted, or was released
        """
        if row not in self._admitted:
            raise KeyError(row)
        if row in self._batch.active:
            self.finish(row)
        self._admitted.remove(row)
        del self.rows[row]
        return self._gone.pop(row)

    @torch.no_grad()
    def step(self) -> dict[int, int]:
        active = self._batch.active
        if not active:
            return {}
        with self._precision():
            chosen = self._choice.next(self.language.logits(self._batch.read()))
            staying = [at for at, row in enumerate(active) if not self._ends_with(row, at, chosen)]
            if len(staying) < len(active):
                self._leave(staying)
            if staying:
                ids = chosen.ids if len(staying) == len(active) else chosen.ids[staying]
                self._batch.unread = self.language.embed(ids.to(self._batch.states.device)[:, None])  # [R, 1, D]
        return dict(zip(active, chosen.found, strict=True))

    def _ends_with(self, row: int, at: int, chosen: Chosen) -> bool:
        """Add an id to an answer; returns whether the answer is finished."""
        return self.rows[row].add(chosen.found[at], chosen.logprobs.get(at), self.language.end_ids)

    @torch.no_grad()
    def append(self, embeds: Tensor, context: Any = None, row: int | None = None) -> None:
        """Append embeddings to the unfinished answers, after their last id; generation continues after them.

        embeds   float[R, n, D], for example of an image that was drawn in the meantime
        context  of the fusion for these media; its positions start at `next_positions`
        row      only to this answer, which `take_back` or `restart` has prepared; then R is 1
        raises   ValueError when R is not the number of unfinished answers
        """
        self._batch.append(embeds, context, row)

    def take_back(self, row: int, num_ids: int) -> None:
        """Remove the last ids of an unfinished answer from what is read; call `append` for this row next.

        `chosen` and `answers` keep their ids, and other answers continue as they are.
        raises   ValueError for a model whose cache cannot be cropped
        """
        self._batch.take_back(row, num_ids)

    def restart(self, row: int, prompt: EmbeddedPrompts) -> None:
        """Read the whole sequence of an unfinished answer again: its prompt, and what the answer has so far."""
        self._batch.restart(row, prompt)

    def finish(self, row: int) -> None:
        """End an answer before its next id, for example where the context is full."""
        self._leave([at for at, one in enumerate(self._batch.active) if one != row])

    def context_of(self, row: int | None = None) -> Any:
        """The context of the fusion for what was read: of all unfinished answers, or of one that is apart."""
        return self._batch.context_of(row)

    def next_positions(self, row: int | None = None) -> Tensor:
        """The position of the first embedding that `append` adds next, int64[R, 1], or int64[1, 1] for one answer."""
        return self._batch.next_positions(row)

    def _leave(self, staying: list[int]) -> None:
        """Remove all sequences except these from the batch; a cache of the caller gets them back at the end."""
        leaving = [(at, row) for at, row in enumerate(self._batch.active) if at not in staying]
        if self._is_kept and (staying or self._gone):
            self._gone |= {row: self.cache.select([at]) for at, row in leaving}
        self._gone |= {row: self.cache.alone(at) for at, row in leaving if row in self._admitted}
        self._choice.keep(staying)
        self._batch.keep(staying, trim=bool(self._admitted))
        if not staying and self._is_kept and self._gone:
            self.cache.become(joined([self._gone[row] for row in sorted(self._gone)]))


__all__ = ["BatchStops", "Decoding", "Generation", "OnId", "Precision"]
