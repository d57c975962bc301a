"""CIDEr of captions as it is published: what pycocoevalcap calls CIDEr, the formula of the paper's CIDEr-D."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatbridge.tasks.metrics._captions import MAX_ORDER, captions_of
from chatbridge.tasks.metrics._cider import cider_of_items
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score


@METRICS.register("cider")
class Cider(Metric):
    """Mean over the items, about 0 to 10; papers print it times 100."""

    has_corpus_statistics = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        max_n: int = 4  # n-grams of 1 to this many words
        sigma: float = 6.0  # of the penalty on different lengths, in words
        plain: bool = False  # CIDEr of the paper instead: repeated n-grams count fully, no penalty on lengths

        def problems(self) -> list[str]:
            return order_and_sigma_problems(self.max_n, self.sigma)

    config: Config

    @property
    def names(self) -> tuple[str, ...]:
        return ("cider",)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        plain = self.config.plain
        sigma = None if plain else self.config.sigma
        values = cider_of_items(captions_of(items), items, self.config.max_n, clip=not plain, sigma=sigma)
        return [mean_score("cider", values.tolist(), unit="number")]


def order_and_sigma_problems(max_n: int, sigma: float) -> list[str]:
    """What is wrong with the settings of CIDEr."""
    problems = [] if 1 <= max_n <= MAX_ORDER else [f"max_n is {max_n}; accepted: 1 to {MAX_ORDER}"]
    return problems + ([] if sigma > 0 else [f"sigma is {sigma}; accepted: a number above 0"])
