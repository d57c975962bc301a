"""The captions of items as tokens and n-grams, made once for all caption metrics of an evaluation.

Letters: I items, C captions (the I predictions, then all references), G different n-grams of one order, E entries:
pairs of a caption and an n-gram that it contains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatbridge.common.errors import DataError
from chatbridge.tasks.metrics._ptb_tokenizer import tokenize
from chatbridge.tasks.metrics.base import Item

Ints = NDArray[np.int64]
MAX_ORDER = 9  # of the n-grams


class Grams(NamedTuple):
    """The n-grams of one order in all captions.

    caption  int64[E]   ascending
    gram     int64[E]   0 to kinds - 1, ascending within a caption
    count    int64[E]   how often the caption contains it
    kinds    G
    """

    caption: Ints
    gram: Ints
    count: Ints
    kinds: int


@dataclass(frozen=True)
class Captions:
    """Tokenized captions; the tokens of one have single spaces between them.

    predictions  I of them
    references   of each item, at least one
    """

    predictions: Sequence[str]
    references: Sequence[Sequence[str]]

    @cached_property
    def owner(self) -> Ints:
        """int64[C]: the item of each caption."""
        counts = [len(references) for references in self.references]
        items = np.arange(len(counts), dtype=np.int64)
        return np.concatenate([items, np.repeat(items, counts)])

    @cached_property
    def _words(self) -> list[list[str]]:
        every = [*self.predictions, *(one for references in self.references for one in references)]
        return [caption.split() for caption in every]

    @cached_property
    def lengths(self) -> Ints:
        """int64[C]: words of each caption."""
        return np.array([len(words) for words in self._words], dtype=np.int64)

    @cached_property
    def _orders(self) -> list[Grams]:
        return []

    def grams(self, order: int) -> Grams:
        """The n-grams of an order; 1: words."""
        while len(self._orders) < order:
            self._add_order()
        return self._orders[order - 1]

    @cached_property
    def _ids(self) -> Ints:
        numbers: dict[str, int] = {}
        ids = [numbers.setdefault(word, len(numbers)) for words in self._words for word in words]
        return np.array(ids, dtype=np.int64)

    @cached_property
    def _codes(self) -> list[Ints]:
        """Per order, int64[all words]: which n-gram starts at a word; -1 where its caption ends before."""
        return []

    def _add_order(self) -> None:
        ids, order = self._ids, len(self._orders) + 1
        start = np.cumsum(self.lengths) - self.lengths
        place = np.arange(len(ids)) - np.repeat(start, self.lengths)
        starts = place + order <= np.repeat(self.lengths, self.lengths)
        codes = np.full(len(ids), -1, dtype=np.int64)
        if order == 1:
            codes[starts] = ids[starts]
        else:
            first = np.flatnonzero(starts)
            pairs = self._codes[-1][first] * (int(ids.max(initial=0)) + 1) + ids[first + order - 1]
            codes[starts] = np.unique(pairs, return_inverse=True)[1]
        self._codes.append(codes)
        kinds = int(codes.max(initial=-1)) + 1
        caption = np.repeat(np.arange(len(self.lengths)), self.lengths)
        keys, count = np.unique((caption * max(kinds, 1) + codes)[starts], return_counts=True)
        self._orders.append(Grams(keys // max(kinds, 1), keys % max(kinds, 1), count, kinds))


def captions_of(items: Sequence[Item]) -> Captions:
    """Tokenized predictions and references. An item with a problem has an empty prediction, and a reference of one
    word if its annotation could not be read either: it stays in the denominator.

    raises   DataError that names the readable items without references, or whose references contain no word
    """
    texts = tuple(
        ("", item.references or ("unknown",)) if item.problem else (item.prediction, item.references) for item in items
    )
    captions = _tokenized(texts)
    pairs = [(item, found) for item, found in zip(items, captions.references, strict=True) if not item.problem]
    _refuse([item.id for item, found in pairs if not found], "no reference")
    _refuse([item.id for item, found in pairs if not any(found)], "references without a single word")
    return captions


@lru_cache(maxsize=2)
def _tokenized(texts: tuple[tuple[str, tuple[str, ...]], ...]) -> Captions:
    predictions = tokenize([prediction for prediction, _ in texts])
    tokens = iter(tokenize([one for _, references in texts for one in references]))
    return Captions(predictions, [[next(tokens) for _ in references] for _, references in texts])


def _refuse(ids: Sequence[str], what: str) -> None:
    if ids:
        named = ", ".join(repr(one) for one in ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
        raise DataError(
            f"{what}: item{'s' if len(ids) > 1 else ''} {named}; caption metrics compare with the words of references: "
            "correct the annotation file, or leave these items out"
        )
