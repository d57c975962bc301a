"""How an exported model ends and samples its answers: as ChatBridge does, inside transformers' `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from chatbridge.conversation.stop_strings import Stops
from chatbridge.models.language._token_sampling import TokenSampler, options_per_row, penalties
from chatbridge.models.language.generate_options import GenerateOptions


class AnswerEnd(StoppingCriteria):
    """Ends each answer on its own at a stop sequence. `generate` gets embeddings, so the ids are those of answers."""

    def __init__(self, stops: Stops) -> None:
        self.stops = stops

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """int64[B * beams, n] -> bool[B * beams], whether an answer has ended"""
        ends = [bool(ids) and self.stops.end(ids) is not None for ids in input_ids.tolist()]
        return torch.tensor(ends, device=input_ids.device)


class SeededChoice(LogitsProcessor):
    """Leaves one token of each row: that which ChatBridge samples with these options, whatever the other rows are."""

    def __init__(self, options: Sequence[GenerateOptions], device: torch.device) -> None:
        self.sampler = TokenSampler((), device)
        for one in options:
            self.sampler.add(one)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """int64[B, n] and float[B, V] -> float[B, V], -inf but for the chosen ids"""
        chosen = self.sampler.next(scores).ids
        return torch.full_like(scores, float("-inf")).scatter(1, chosen[:, None], 0.0)


def logits_processors(config: GenerationConfig, seed: int | None, num_rows: int, device: torch.device) -> list[Any]:
    """What `generate` applies beside its own processors; `config` loses what these do in its place.

    The repetition penalty counts the tokens of the answer alone, as in ChatBridge.
    seed   of sampling without beams; None: transformers samples from torch's global state
    """
    penalty = config.repetition_penalty or 1.0
    config.repetition_penalty = None
    if seed is None or not config.do_sample or (config.num_beams or 1) > 1:
        return penalties(GenerateOptions(repetition_penalty=penalty))
    options = GenerateOptions(
        sample=True, seed=seed, repetition_penalty=penalty, temperature=config.temperature or 1.0,
        top_p=config.top_p or 1.0, top_k=config.top_k or 0,
    )  # fmt: skip
    config.do_sample, config.temperature, config.top_p, config.top_k = False, None, None, None
    return [SeededChoice(options_per_row(options, num_rows), device)]


@contextmanager
def own_settings(lm: Any, seed: int | None, device: torch.device) -> Iterator[None]:
    """Ignore the language model's generation_config.json, from which transformers would fill unset options; and seed
    torch's global state, which samples of beams are drawn from, and restore it afterwards."""
    kept, lm.generation_config = lm.generation_config, GenerationConfig()
    try:
        if seed is None:
            yield
            return
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
    finally:
        lm.generation_config = kept


__all__ = ["AnswerEnd", "SeededChoice", "logits_processors", "own_settings"]
