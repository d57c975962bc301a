"""How likely given continuations of a prompt are: the prompt is read once, its KV cache is shared by all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from chatbridge.models.language.base import LanguageModel
from chatbridge.models.language.cache import Cache
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.models.language.reading import read_columns

ROWS = 32  # continuations that are read together; the cache of the prompt is repeated for each of them


class Likelihood(NamedTuple):
    """How likely a continuation is.

    logprobs   natural log-probability of each of its ids, given everything before it
    is_greedy  whether each of its ids is the most likely one, so that greedy decoding would begin with it
    """

    logprobs: tuple[float, ...]
    is_greedy: bool

    @property
    def total(self) -> float:
        """The natural log-probability of the whole continuation."""
        return sum(self.logprobs)


@torch.no_grad()
def likelihoods(
    language: LanguageModel, prompt: EmbeddedPrompts, continuations: Sequence[Sequence[int]]
) -> list[Likelihood]:
    """The likelihood of each continuation of a prompt, from an fp32 log-softmax of the logits.

    The layers run at L positions for the prompt, and for the continuations at one position less than their ids, padding
    to the longest of `ROWS` neighbours included. A model without a cache reads the prompt again for each (`rereads`).

    prompt         of one conversation, float[1, L, D]
    continuations  at least one id each
    raises         ValueError for several prompts, or a continuation without ids
    """
    if len(prompt.embeds) != 1 or not all(map(len, continuations)):
        raise ValueError("likelihoods need one prompt, and at least one id per continuation")
    cache = language.new_cache()
    cache.context = prompt.context
    last = prompt.embeds[:, -1]
    for states in read_columns(language, cache, prompt.embeds, prompt.show):
        last = states[:, -1]  # [1, D]
    logprobs = _logprobs(language, last).expand(len(continuations), -1)  # [R, V]
    found = [[one] for one in _chosen(logprobs, [ids[0] for ids in continuations])]
    longer = [number for number, ids in enumerate(continuations) if len(ids) > 1]
    for start in range(0, len(longer), ROWS):
        numbers = longer[start : start + ROWS]
        rows = _rest(language, cache.select([0] * len(numbers)), prompt, [continuations[number] for number in numbers])
        for number, row in zip(numbers, rows, strict=True):
            found[number] += row
    return [Likelihood(tuple(value for value, _ in row), all(is_best for _, is_best in row)) for row in found]


def _rest(
    language: LanguageModel, cache: Cache, prompt: EmbeddedPrompts, continuations: Sequence[Sequence[int]]
) -> list[list[tuple[float, bool]]]:
    """All ids but the first of each continuation: log-probability, and whether it is the most likely id.

    cache    the prompt, once for each continuation
    """
    width, device = max(map(len, continuations)) - 1, prompt.embeds.device
    read = torch.tensor([[*ids[:-1], *[ids[-1]] * (width - len(ids) + 1)] for ids in continuations], device=device)
    embeds = language.embed(read).to(prompt.embeds.dtype)  # [R, width, D], padded on the right, which nothing sees
    states = torch.cat(list(read_columns(language, cache, embeds, prompt.show)), 1)  # [R, width, D]
    points = torch.tensor([row * width + at for row, ids in enumerate(continuations) for at in range(len(ids) - 1)])
    logprobs = _logprobs(language, states.flatten(0, 1)[points.to(device)])  # [S, V]
    values = iter(_chosen(logprobs, [new for ids in continuations for new in ids[1:]]))
    return [[next(values) for _ in ids[1:]] for ids in continuations]


def _chosen(logprobs: Tensor, ids: Sequence[int]) -> list[tuple[float, bool]]:
    """Of each of S points the log-probability of its id, and whether no id is more likely. logprobs: fp32[S, V]"""
    values = logprobs.gather(1, torch.tensor(ids, device=logprobs.device)[:, None])[:, 0]  # [S]
    return list(zip(values.tolist(), (values == logprobs.amax(1)).tolist(), strict=True))


def _logprobs(language: LanguageModel, states: Tensor) -> Tensor:
    """float[n, D] -> fp32[n, V]"""
    return language.logits(states).float().log_softmax(-1)


__all__ = ["ROWS", "Likelihood", "likelihoods"]
