"""Choose the next token of each sequence from its logits: transformers' processors, then greedy choice or sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from chatbridge.common import seeds
from chatbridge.models.language.generate_options import GenerateOptions

Processors = Sequence[Any]  # transformers' LogitsProcessor: (ids int64[R, n], scores float[R, V]) -> scores


def options_per_row(options: GenerateOptions | Sequence[GenerateOptions], num_rows: int) -> list[GenerateOptions]:
    """Options for each of `num_rows` prompts; from one seed, each prompt gets its own, so they are independent.

    raises   ValueError for a different number of options, or prompts with different numbers of beams
    """
    if isinstance(options, GenerateOptions):
        return [_of_row(options, row) for row in range(num_rows)]
    found = list(options)
    if len(found) != num_rows:
        raise ValueError(f"{len(found)} options for {num_rows} prompts; give one for all, or one for each prompt")
    if len({one.num_beams for one in found}) > 1:
        raise ValueError("prompts with different num_beams cannot be generated together")
    return found


def _of_row(options: GenerateOptions, row: int) -> GenerateOptions:
    if options.seed is None or row == 0:
        return options
    return replace(options, seed=seeds.number(options.seed, "row of a batch", row))


def penalties(options: GenerateOptions) -> list[Any]:
    """The repetition penalty, over the tokens of the answer.

    It is passed as a processor, because transformers 5.23 builds one from its settings that ignores as many new tokens
    as the prompt has padding: with input embeddings it takes them for the prompt.
    """
    from transformers import RepetitionPenaltyLogitsProcessor

    is_asked = options.repetition_penalty != 1.0
    return [RepetitionPenaltyLogitsProcessor(options.repetition_penalty)] if is_asked else []


def processors_of(
    options: GenerateOptions, end_ids: Sequence[int], device: torch.device, extra: Processors = ()
) -> list[Any]:
    """transformers' logits processors for the options, in its order; they get only the new ids.

    extra  of the caller: before those of sampling, as in transformers, so that a token that they exclude is not among
           the most likely ones, which may be one alone
    """
    from transformers import (
        MinNewTokensLengthLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    found: list[Any] = []
    if options.min_new_tokens and end_ids:
        found += [MinNewTokensLengthLogitsProcessor(0, options.min_new_tokens, list(end_ids), device=str(device))]
    found += [*penalties(options), *extra]
    if options.sample and options.temperature != 1.0:
        found += [TemperatureLogitsWarper(options.temperature)]
    if options.sample and options.top_k:
        found += [TopKLogitsWarper(options.top_k)]
    if options.sample and options.top_p < 1.0:
        found += [TopPLogitsWarper(options.top_p)]
    return found


@dataclass
class TokenSampler:
    """Chooses the next tokens of R sequences; `keep` drops the finished ones.

    options  of each sequence
    end_ids  of the language model
    extra    processors of the caller, see processors_of
    """

    options: list[GenerateOptions]
    end_ids: Sequence[int]
    device: torch.device
    extra: Processors = ()
    ids: Tensor = field(init=False)  # int64[R, n], tokens chosen so far

    def __post_init__(self) -> None:
        self.ids = torch.zeros(len(self.options), 0, dtype=torch.long, device=self.device)
        self._generators = [_generator(one) if one.sample else None for one in self.options]
        self._group()

    def _group(self) -> None:
        """Group sequences with the same options, which are processed together."""
        rows: dict[GenerateOptions, list[int]] = {}
        for row, one in enumerate(self.options):
            rows.setdefault(replace(one, seed=None, max_new_tokens=max(one.min_new_tokens, 1)), []).append(row)
        made = [(processors_of(one, self.end_ids, self.device, self.extra), which) for one, which in rows.items()]
        self._groups = [(processors, which) for processors, which in made if processors]

    def next(self, logits: Tensor) -> list[int]:
        """Logits float[R, V] -> the next id of each sequence."""
        scores = self._processed(logits.float())
        chosen = scores.argmax(-1)  # [R]
        drawn = [row for row, generator in enumerate(self._generators) if generator is not None]
        if drawn:
            chosen[drawn] = draw(scores[drawn], [self._generators[row] for row in drawn])
        if self._groups:
            self.ids = torch.cat([self.ids, chosen[:, None]], 1)
        return chosen.tolist()

    def _processed(self, scores: Tensor) -> Tensor:
        for processors, rows in self._groups:
            is_all = len(rows) == len(self.options)
            ids, of_rows = (self.ids, scores) if is_all else (self.ids[rows], scores[rows])
            for process in processors:
                of_rows = process(ids, of_rows)
            if is_all:
                return of_rows
            scores = scores.index_copy(0, torch.tensor(rows, device=scores.device), of_rows)
        return scores

    def keep(self, rows: list[int]) -> None:
        """Keep only the sequences with these indices."""
        self.options = [self.options[row] for row in rows]
        self._generators = [self._generators[row] for row in rows]
        self.ids = self.ids[rows]
        self._group()


def draw(scores: Tensor, generators: Sequence[Any]) -> Tensor:
    """Sample one id per sequence with one random number of its generator, independent of other sequences and devices.

    scores      float[R, V], -inf for excluded tokens
    generators  torch.Generator on the CPU, one per sequence
    returns     int64[R]
    """
    numbers = torch.stack([torch.rand((), dtype=torch.float64, generator=one) for one in generators])  # [R], in [0, 1)
    mass = scores.double().softmax(-1).cumsum(-1)  # [R, V]
    total = mass[:, -1:].contiguous()
    found = torch.searchsorted(mass, numbers.to(mass.device)[:, None] * total, right=True)  # [R, 1]
    return torch.minimum(found, torch.searchsorted(mass, total))[:, 0]  # [R]; rounding must not exceed the last id


def _generator(options: GenerateOptions) -> torch.Generator:
    """A generator with the seed of the options; without one, seeded by torch's global state."""
    seed = int(torch.randint(2**63 - 1, ())) if options.seed is None else int(options.seed)
    return torch.Generator().manual_seed(seed)
