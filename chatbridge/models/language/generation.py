"""Start a generation: the loop of decode.py, beam search, or one prompt at a time for models that require it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from chatbridge.conversation.stop_strings import BatchStops, Stops, stops_per_sequence
from chatbridge.models.language._token_sampling import Processors, options_per_row
from chatbridge.models.language.base import Between, LanguageModel
from chatbridge.models.language.cache import Cache
from chatbridge.models.language.decode import Decoding, Generation, Precision
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.models.language.generate_options import GenerateOptions


def start_generation(
    language: LanguageModel,
    prompts: EmbeddedPrompts,
    options: GenerateOptions | Sequence[GenerateOptions],
    stops: BatchStops = (),
    cache: Cache | None = None,
    processors: Processors = (),
    precision: Precision = nullcontext,
    between: Between | None = None,
) -> Generation:
    """A generation of answers to R prompts; each `step` adds a token to every unfinished answer.

    options     for all prompts, or one for each. A seed for all becomes one of each prompt
    stops       stop strings: for all prompts, or one for each
    cache, processors, precision  see Decoding
    between     called before every pass of a beam search, whose answers come in one step; see LanguageModel.beam_search
    raises      ValueError for beam search with a cache or processors of the caller, or when options, stops and prompts
                differ in number
    """
    num_rows = len(prompts.embeds)
    settings, ends = options_per_row(options, num_rows), stops_per_sequence(stops, num_rows)
    has_beams = settings[0].num_beams > 1
    if has_beams and (cache is not None or processors):
        raise ValueError("beam search accepts no cache and no logits processors; set num_beams to 1, or remove them")
    is_apart = cache is None and prompts.is_ragged and not language.new_cache().store.paddable
    if is_apart or (has_beams and _differ(settings)):
        rows = [
            start_generation(
                language, prompts.alone(row), [settings[row]], [ends[row]], None, processors, precision, between
            )
            for row in range(num_rows)
        ]
        return SeparateGenerations(rows)
    if has_beams:
        return BeamSearch(language, prompts, settings[0], ends, precision, between)
    return Decoding(language, prompts, settings, ends, cache, processors, precision)


def _differ(settings: Sequence[GenerateOptions]) -> bool:
    """Whether options differ; a seed matters only for sampling."""
    return len({one if one.sample else replace(one, seed=None) for one in settings}) > 1


class BeamSearch:
    """Beam search of transformers as a generation: one step gives all answers."""

    def __init__(
        self,
        language: LanguageModel,
        prompts: EmbeddedPrompts,
        options: GenerateOptions,
        stops: Sequence[Stops],
        precision: Precision = nullcontext,
        between: Between | None = None,
    ) -> None:
        self.language, self.prompts, self.options = language, prompts, options
        self.answers: list[list[int]] = [[] for _ in range(len(prompts.embeds))]
        self.is_done = False
        self._stops, self._precision, self._between = stops, precision, between

    @torch.no_grad()
    def step(self) -> dict[int, int]:
        embeds, mask = self.prompts.embeds, self.prompts.mask
        mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device) if mask is None else mask
        has_layers = self.prompts.context is not None or self._between is not None
        show = self._show if has_layers and self.prompts.show is not None else None
        if show is None and self.prompts.show is not None:
            self.prompts.show(None)
        with self._precision():
            self.answers = self.language.beam_search(embeds, mask, self.options, self._stops, show, self._between)
        self.is_done = True
        return {}

    def _show(self, positions: Tensor) -> None:
        """Set the fusion's context for the positions of the next tokens, int64[R * beams, n]."""
        num_rows, context = len(self.prompts.embeds), self.prompts.context
        if context is not None:
            rows = torch.arange(num_rows, device=positions.device).repeat_interleave(len(positions) // num_rows)
            context = context.select(rows).at(positions)
        if self.prompts.show is not None:
            self.prompts.show(context)


class SeparateGenerations:
    """Prompts that cannot share a batch: of different lengths with a recurrent state, or beams with other options."""

    def __init__(self, rows: Sequence[Generation]) -> None:
        self.rows = rows

    @property
    def answers(self) -> list[list[int]]:
        return [answer for one in self.rows for answer in one.answers]

    @property
    def is_done(self) -> bool:
        return all(one.is_done for one in self.rows)

    def step(self) -> dict[int, int]:
        going = [(row, one) for row, one in enumerate(self.rows) if not one.is_done]
        return {row: new for row, one in going for new in one.step().values()}


__all__ = ["BeamSearch", "SeparateGenerations", "start_generation"]
