"""Choose the next token of each sequence from its logits: transformers' processors, then greedy choice or sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from chatbridge.common import seeds
from chatbridge.models.language._decoded_row import TokenLogprobs
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
class _Group:
    """Sequences whose scores the same processors change together.

    rows  their indices in the batch, rising
    ids   int64[R, n], their ids so far; n stays 0 where no processor asks for them
    """

    key: tuple[Any, ...]  # the settings that their processors depend on
    processors: list[Any]
    asks_ids: bool
    rows: list[int]
    ids: Tensor
    index: Tensor | None = None  # int64[R], `rows` on the device, once needed

    def process(self, scores: Tensor) -> Tensor:
        """float[B, V] of the whole batch -> the same with the scores of these sequences changed"""
        is_all = len(self.rows) == len(scores)
        if not is_all and self.index is None:
            self.index = torch.tensor(self.rows, device=scores.device)
        own = scores if self.index is None or is_all else scores[self.index]
        for process in self.processors:
            own = process(self.ids, own)
        return own if self.index is None or is_all else scores.index_copy(0, self.index, own)

    def append(self, chosen: Tensor) -> None:
        """Note the ids of a step, int64[B] of the whole batch."""
        if self.asks_ids:
            own = chosen if len(self.rows) == len(chosen) else chosen[self.rows if self.index is None else self.index]
            self.ids = torch.cat([self.ids, own[:, None]], 1)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep what is left of it when the batch keeps only these indices, rising."""
        place = {row: at for at, row in enumerate(rows)}
        staying = [at for at, row in enumerate(self.rows) if row in place]
        self.ids = self.ids[staying]
        self.rows, self.index = [place[self.rows[at]] for at in staying], None


@dataclass(frozen=True)
class Chosen:
    """The next ids of R sequences.

    ids       int64[R], on the device
    found     the same as numbers
    logprobs  index of a sequence -> those of its id, where asked for
    """

    ids: Tensor
    found: list[int]
    logprobs: dict[int, TokenLogprobs]


class TokenSampler:
    """Chooses the next tokens of sequences; `add` and `keep` change which. A step waits for the device once."""

    def __init__(self, end_ids: Sequence[int], device: torch.device, extra: Processors = ()) -> None:
        """
        end_ids  of the language model
        extra    processors of the caller, see processors_of
        """
        self.end_ids, self.device, self.extra = end_ids, device, extra
        self._generators: list[torch.Generator | None] = []
        self._top: list[int | None] = []
        self._groups: list[_Group] = []

    def add(self, options: GenerateOptions, top_logprobs: int | None = None) -> None:
        """Add a sequence without ids at the end of the batch."""
        row = len(self._generators)
        self._generators.append(_generator(options) if options.sample else None)
        self._top.append(top_logprobs)
        sampling = (options.temperature, options.top_k, options.top_p) if options.sample else ()
        key = (options.min_new_tokens, options.repetition_penalty, *sampling)
        for group in self._groups:
            if group.key == key and not group.ids.shape[1]:
                group.rows.append(row)
                group.ids, group.index = torch.cat([group.ids, group.ids.new_zeros(1, 0)]), None
                return
        processors = processors_of(options, self.end_ids, self.device, self.extra)
        if processors:
            asks_ids = bool(self.extra or options.min_new_tokens or options.repetition_penalty != 1.0)
            nothing = torch.zeros(1, 0, dtype=torch.long, device=self.device)
            self._groups.append(_Group(key, processors, asks_ids, [row], nothing))

    def next(self, logits: Tensor) -> Chosen:
        """Logits float[R, V] -> the next id of each sequence."""
        logits = logits.float()
        scores = logits
        for group in self._groups:
            scores = group.process(scores)
        chosen = scores.argmax(-1)  # [R]
        drawn = [row for row, generator in enumerate(self._generators) if generator is not None]
        if drawn:
            chosen[drawn] = draw(scores[drawn], [self._generators[row] for row in drawn])
        for group in self._groups:
            group.append(chosen)
        return self._read_back(chosen, logits)

    def _read_back(self, chosen: Tensor, logits: Tensor) -> Chosen:
        """Wait for the ids, and for log-probabilities in the same transfer."""
        num_ids = logits.shape[-1]
        asked = [(row, min(most, num_ids)) for row, most in enumerate(self._top) if most is not None]
        if not asked:
            return Chosen(chosen, chosen.tolist(), {})
        rows, most = [row for row, _ in asked], max(most for _, most in asked)
        logprobs = logits[rows].log_softmax(-1)  # [A, V]
        top = logprobs.topk(most, -1)  # [A, most]
        own = logprobs.gather(1, chosen[rows][:, None])  # [A, 1]
        records = torch.cat([own.double(), top.values.double(), top.indices.double()], 1)  # [A, 1 + 2 * most]; exact
        numbers = torch.cat([chosen.double(), records.flatten()]).tolist()
        ids = [int(one) for one in numbers[: len(chosen)]]
        return Chosen(chosen, ids, dict(_records(asked, numbers[len(chosen) :], most)))

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only the sequences with these indices, rising."""
        self._generators = [self._generators[row] for row in rows]
        self._top = [self._top[row] for row in rows]
        for group in self._groups:
            group.keep(rows)
        self._groups = [group for group in self._groups if group.rows]


def _records(
    asked: Sequence[tuple[int, int]], numbers: Sequence[float], width: int
) -> Iterator[tuple[int, TokenLogprobs]]:
    """Index of each sequence and its record.

    numbers   for each sequence 1 + 2 * width: the log-probability, those of the most likely ids, and these ids
    """
    for at, (row, most) in enumerate(asked):
        own, *others = numbers[at * (1 + 2 * width) : (at + 1) * (1 + 2 * width)]
        top = zip(map(int, others[width : width + most]), others[:most], strict=True)
        yield row, TokenLogprobs(own, tuple(top))


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
