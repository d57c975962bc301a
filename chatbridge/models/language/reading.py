"""Read the next columns of cached sequences, with the media that a fusion's layers inside the model attend to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from chatbridge.models.language.base import LanguageModel
from chatbridge.models.language.cache import Cache

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


__all__ = ["Show", "read_columns"]
