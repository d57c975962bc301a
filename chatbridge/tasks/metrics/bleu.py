"""BLEU of captions (Papineni et al., 2002), as pycocoevalcap computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chatbridge.tasks.metrics._captions import MAX_ORDER, Captions, Ints, captions_of
from chatbridge.tasks.metrics.base import METRICS, Array, Item, Metric, Score

TINY, SMALL = 1e-15, 1e-9  # in place of the zeros of short captions, as in the official code


@METRICS.register("bleu")
class Bleu(Metric):
    """BLEU-1 to BLEU-N of the whole corpus, 0 to 1: precision of n-grams, with a penalty for short captions.

    The length to reach is that of the reference whose length is closest to the prediction's.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        max_n: int = 4  # up to which n-grams; the headline is BLEU of this order

        def problems(self) -> list[str]:
            return [] if 1 <= self.max_n <= MAX_ORDER else [f"max_n is {self.max_n}; accepted: 1 to {MAX_ORDER}"]

    config: Config

    @property
    def names(self) -> tuple[str, ...]:
        last = self.config.max_n
        return tuple(f"bleu_{order}" for order in (last, *range(1, last)))

    def scores(self, items: Sequence[Item]) -> list[Score]:
        """The statistics of BLEU-n are words, words to reach, then per order possible and found n-grams."""
        captions = captions_of(items)
        orders = [_found(captions, order) for order in range(1, self.config.max_n + 1)]
        num_words = captions.lengths[: len(items)]
        lengths = np.stack([num_words, _closest(captions)], axis=1)
        found = []
        for name in self.names:
            order = int(name.removeprefix("bleu_"))
            possible = [np.maximum(0, num_words - one) for one in range(order)]
            statistics = np.column_stack([lengths, *possible, *orders[:order]]).astype(np.float64)
            found.append(Score(name, statistics, bleu(statistics), combine=bleu))
        return found


def bleu(sums: Array) -> Array:
    """BLEU of the order n that float64[..., 2 + 2n] has: of one caption, or of the sums over many."""
    order = (sums.shape[-1] - 2) // 2
    length, goal = sums[..., 0], sums[..., 1]
    precisions = (sums[..., 2 + order :] + TINY) / (sums[..., 2 : 2 + order] + SMALL)
    short = (length + TINY) / (goal + SMALL)
    penalty = np.where(short < 1, np.exp(1 - 1 / np.minimum(short, 1)), 1.0)
    return precisions.prod(axis=-1) ** (1 / order) * penalty


def _found(captions: Captions, order: int) -> Ints:
    """int64[I]: n-grams of each prediction that a reference has too, each as often as the reference with most."""
    grams = captions.grams(order)
    num_items, kinds = len(captions.predictions), max(grams.kinds, 1)
    keys = captions.owner[grams.caption] * kinds + grams.gram
    own = grams.caption < num_items
    if own.all():
        return np.zeros(num_items, dtype=np.int64)
    by_key = np.argsort(keys[~own], kind="stable")
    in_references, first = np.unique(keys[~own][by_key], return_index=True)
    most = np.maximum.reduceat(grams.count[~own][by_key], first)
    place = np.minimum(np.searchsorted(in_references, keys[own]), len(in_references) - 1)
    limit = np.where(in_references[place] == keys[own], most[place], 0)
    hits = np.minimum(grams.count[own], limit)
    return np.bincount(grams.caption[own], weights=hits, minlength=num_items).astype(np.int64)


def _closest(captions: Captions) -> Ints:
    """int64[I]: the length of the reference closest to each prediction's; of two, the shorter."""
    num_items = len(captions.predictions)
    own, reference = captions.lengths[:num_items], captions.lengths[num_items:]
    owner = captions.owner[num_items:]
    order = np.lexsort((reference, np.abs(reference - own[owner]), owner))
    first = np.unique(owner[order], return_index=True)[1]
    return reference[order][first]
