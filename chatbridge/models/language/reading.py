"""Read the next columns of cached sequences, with the media that a fusion's layers inside the model attend to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from chatbridge.models.language.base import LanguageModel
from chatbridge.models.language.cache import Cache
from chatbridge.models.language.embedded_prompts import EmbeddedPrompts

Show = Callable[[Any], None]  # sets the context of a fusion's layers (Fusion.show)


def read_columns(language: LanguageModel, cache: Cache, embeds: Tensor, show: Show | None) -> Iterator[Tensor]:
    """Their states before the head, in one or several portions (`Cache.portions`); the cache then holds them.

    embeds   float[R, n, D], what comes after the columns of the cache
    yields   float[R, k, D]; the k of all portions add up to n
    """
    for portion in cache.portions(embeds):
        num_new = portion.shape[1]
        if show is not None:
            rows = cache.positions_in_layers(num_new, embeds.device).expand(len(embeds), -1)
            show(None if cache.context is None else cache.context.at(rows))
        yield language(portion, cache.positions(num_new, embeds.device), cache=cache)


def see(cache: Cache, context: Any) -> None:
    """Add the context of a fusion for media of what is read next; None without media."""
    if context is not None:
        cache.context = context if cache.context is None else cache.context.followed_by(context)


def read_ahead(language: LanguageModel, prompt: EmbeddedPrompts, cache: Cache, num_positions: int) -> EmbeddedPrompts:
    """Read the first positions of a prompt into its cache; returns what is left, at least one position.

    A long prompt can so be read in pieces, with steps of a running generation in between.

    prompt         of one row, what comes after the cache
    num_positions  at most so many are read, from 1 on
    """
    prompt = prompt.alone(0) if prompt.mask is not None else prompt
    see(cache, prompt.context)
    num_read = min(num_positions, prompt.embeds.shape[1] - 1)
    if num_read > 0:
        with torch.no_grad():
            for _ in read_columns(language, cache, prompt.embeds[:, :num_read], prompt.show):
                pass
    return replace(prompt, embeds=prompt.embeds[:, max(num_read, 0) :], context=None)


__all__ = ["Show", "read_ahead", "read_columns", "see"]
