"""CIDEr-D of captions: equal to `cider`, which is CIDEr-D in pycocoevalcap; for those who look for it by this name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatbridge.tasks.metrics._captions import captions_of
from chatbridge.tasks.metrics._cider import cider_of_items
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score
from chatbridge.tasks.metrics.cider import order_and_sigma_problems


@METRICS.register("cider_d")
class CiderD(Metric):
    """Mean over the items, about 0 to 10, as the authors' ciderD with the document frequencies of these items."""

    has_corpus_statistics = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        max_n: int = 4  # n-grams of 1 to this many words
        sigma: float = 6.0  # of the penalty on different lengths, in words

        def problems(self) -> list[str]:
            return order_and_sigma_problems(self.max_n, self.sigma)

    config: Config

    @property
    def names(self) -> tuple[str, ...]:
        return ("cider_d",)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        values = cider_of_items(captions_of(items), items, self.config.max_n, clip=True, sigma=self.config.sigma)
        return [mean_score("cider_d", values.tolist(), unit="number")]
