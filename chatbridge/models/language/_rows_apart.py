"""Sequences of a batch that continue from an earlier point than the others, such as after a drawn image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatbridge.models.language.cache import Cache, joined

ReadInto = Callable[[Cache, Tensor], Tensor]  # cache, float[R, n, D] -> states of the last column, float[R, D]


@dataclass
class RowApart:
    """One sequence with a cache of its own until the next forward pass.

    cache   of this sequence alone, up to the point from which it continues
    embeds  float[1, n, D], what comes next; None until it is known
    """

    cache: Cache
    embeds: Tensor | None = None

    def see(self, context: object) -> None:
        """Add the context of the fusion for media of `embeds`."""
        if context is not None:
            before = self.cache.context
            self.cache.context = context if before is None else before.followed_by(context)  # pyright: ignore

    def append(self, embeds: Tensor) -> None:
        """Add embeddings, float[1, n, D], after those that are there."""
        self.embeds = embeds if self.embeds is None else torch.cat([self.embeds, embeds], 1)


def read_apart(cache: Cache, embeds: Tensor, apart: Sequence[tuple[int, RowApart]], read: ReadInto) -> Tensor:
    """Read the next columns of a batch: some sequences for themselves, all others together.

    cache    of all sequences; afterwards it holds what was read, padded on the left
    embeds   float[R, n, D], the next columns of the others
    apart    (index in the batch, sequence); none is read twice
    returns  the states of the last column, float[R, D]
    raises   ValueError for several sequences if the model cannot mask padding
    """
    own = [at for at, _ in apart]
    rest = [at for at in range(len(embeds)) if at not in own]
    states: list[Tensor] = []
    parts: list[Cache] = []
    if rest:
        parts.append(cache.select(rest))
        states.append(read(parts[0], embeds[rest]))
    for _, row in apart:
        assert row.embeds is not None, "a sequence that was taken back continues with something"
        parts.append(row.cache)
        states.append(read(row.cache, row.embeds))
    whole = joined(parts)
    order = [*rest, *own]
    places = sorted(range(len(order)), key=order.__getitem__)
    if places != list(range(len(order))):
        whole.keep(places)
    cache.become(whole)
    return torch.cat(states)[places]


__all__ = ["RowApart", "read_apart"]
