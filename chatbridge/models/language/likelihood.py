"""How likely given continuations of a prompt are: the prompt is read once, its KV cache is shared by all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatbridge.models.language.base import LanguageModel
from chatbridge.models.language.cache import Cache
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts
from chatbridge.models.language.reading import read_columns

ROWS = 32  # continuations that are read together; the cache of the prompt is repeated for each of them


@torch.no_grad()
def continuation_logprobs(
    language: LanguageModel, prompt: EmbeddedPrompts, continuations: Sequence[Sequence[int]]
) -> list[list[float]]:
    """The natural log-probability of every id, given the prompt and the ids of its continuation before it.

    The layers run at L positions for the prompt, and for the continuations at one position less than their ids, padding
    to the longest of `ROWS` neighbours included. A model without a cache reads the prompt again for each (`rereads`).

    prompt         of one conversation, float[1, L, D]
    continuations  at least one id each
    returns        for each continuation as many numbers as it has ids; fp32 log-softmax of the logits
    raises         ValueError for several prompts, or a continuation without ids
    """
    if len(prompt.embeds) != 1 or not all(map(len, continuations)):
        raise ValueError("likelihoods need one prompt, and at least one id per continuation")
    cache = language.new_cache()
    cache.context = prompt.context
    last = prompt.embeds[:, -1]
    for states in read_columns(language, cache, prompt.embeds, prompt.show):
        last = states[:, -1]  # [1, D]
    first = _logprobs(language, last)[0]  # [V]
    found = [[float(first[ids[0]])] for ids in continuations]
    longer = [number for number, ids in enumerate(continuations) if len(ids) > 1]
    for start in range(0, len(longer), ROWS):
        numbers = longer[start : start + ROWS]
        rows = _rest(language, cache.select([0] * len(numbers)), prompt, [continuations[number] for number in numbers])
        for number, row in zip(numbers, rows, strict=True):
            found[number] += row
    return found


def _rest(
    language: LanguageModel, cache: Cache, prompt: EmbeddedPrompts, continuations: Sequence[Sequence[int]]
) -> list[list[float]]:
    """The log-probabilities of all ids but the first of each continuation.

    cache    the prompt, once for each continuation
    """
    width, device = max(map(len, continuations)) - 1, prompt.embeds.device
    read = torch.tensor([[*ids[:-1], *[ids[-1]] * (width - len(ids) + 1)] for ids in continuations], device=device)
    embeds = language.embed(read).to(prompt.embeds.dtype)  # [R, width, D], padded on the right, which nothing sees
    states = torch.cat(list(read_columns(language, cache, embeds, prompt.show)), 1)  # [R, width, D]
    points = torch.tensor([row * width + at for row, ids in enumerate(continuations) for at in range(len(ids) - 1)])
    targets = torch.tensor([new for ids in continuations for new in ids[1:]], device=device)
    logprobs = _logprobs(language, states.flatten(0, 1)[points.to(device)])  # [S, V]
    values = iter(logprobs.gather(1, targets[:, None])[:, 0].tolist())
    return [[next(values) for _ in ids[1:]] for ids in continuations]


def _logprobs(language: LanguageModel, states: Tensor) -> Tensor:
    """float[n, D] -> fp32[n, V]"""
    return language.logits(states).float().log_softmax(-1)


__all__ = ["ROWS", "continuation_logprobs"]
