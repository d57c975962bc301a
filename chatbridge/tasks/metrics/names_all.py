"""Whether a caption names every attribute that its annotation lists.

An attribute may be a list of synonyms: ["red", ["circle", "disc"]]. Items without a list have no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score
from chatbridge.tasks.metrics.text import named


@METRICS.register("names_all")
class NamesAll(Metric):
    """`names_all`, the share of the captions that name all attributes, and `recall`, the mean share that they name."""

    needs = frozenset()

    @dataclass(frozen=True, kw_only=True)
    class Config:
        must_name: str = "must_name"  # annotation field with the attributes that a caption must name

    config: Config

    @property
    def names(self) -> tuple[str, ...]:
        return ("names_all", "recall")

    def scores(self, items: Sequence[Item]) -> list[Score]:
        shares = [None if item.problem is not None else self._share(item) for item in items]
        if any(share is not None for share in shares) or all(item.problem is not None for item in items):
            shares = [share if item.problem is None else 0.0 for item, share in zip(items, shares, strict=True)]
        whole = [None if share is None else float(share == 1.0) for share in shares]
        return [mean_score("names_all", whole), mean_score("recall", shares)]

    def _share(self, item: Item) -> float | None:
        attributes: Any = item.details.get(self.config.must_name) or ()
        if not isinstance(attributes, list | tuple) or not all(map(_is_attribute, attributes)):
            raise DataError(
                f"item {item.id!r}: its detail {self.config.must_name!r} is {attributes!r:.80}, expected a list whose "
                'entries are texts or lists of synonyms: ["red", ["circle", "disc"]]'
            )
        hits = [any(named(item.prediction, [one] if isinstance(one, str) else one)) for one in attributes]
        return sum(hits) / len(hits) if hits else None


def _is_attribute(one: Any) -> bool:
    return isinstance(one, str) or (isinstance(one, list | tuple) and all(isinstance(text, str) for text in one))
