"""The contract of a metric: items in, scores out, from the file of predictions alone.

A score is kept as sums over items, from which its value is combined. So the value of any resample of the items, which
a confidence interval needs, costs one product of matrices, for a mean as for BLEU or F1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chatbridge.common.errors import DataError
from chatbridge.config.registry import Registry

Array = NDArray[np.float64]
Unit = Literal["fraction", "percent", "number"]  # fraction: 0 to 1, shown as percent. number: shown as it is


@dataclass(frozen=True)
class Item:
    """A line of a file of predictions.

    prediction  the generated text; "" where the question could not be answered
    references  every correct answer
    details     the annotation, for metrics that need more than the references
    row         the whole line, for metrics of drawn images or of the likelihood of options
    problem     why there is no answer; such an item scores the worst value and stays in the denominator
    folder      of the file, where paths in `row` begin; None: not known
    """

    id: str
    prediction: str
    references: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    folder: Path | None = None


def detail(item: Item, name: str, kind: type[Any] = object) -> Any:
    """A field of the annotation.

    kind     that its value must be of
    raises   DataError that names the item if it has no such field: another kind of task
    """
    if name not in item.details:
        raise DataError(
            f"item {item.id!r} has no {name!r} in its details, which this metric needs; "
            "its data are of another kind of task, choose another metric"
        )
    if not isinstance(value := item.details[name], kind):
        raise DataError(f"item {item.id!r}: its detail {name!r} is {value!r:.80}, expected a {kind.__name__}")
    return value


def ratio(sums: Array) -> Array:
    """Mean of a score whose statistics are (value, 1) per item. sums: float64[..., 2]; returns float64[...]"""
    with np.errstate(invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


@dataclass(frozen=True)
class Score:
    """One score of a list of items.

    statistics  float64[items, k], summed over items before `combine`; a row of zeros: an item without this score
    combine     float64[..., k] -> float64[...], the value of such sums; NaN where nothing is counted
    per_item    float64[items], the value of each item alone; NaN where it has none
    higher_is_better   set by `scoring.scores_of`, from `lower_is_better` of the metric
    compares_items     whether a modality report tells for how many questions the right media give the better value
    """

    name: str
    statistics: Array
    per_item: Array
    combine: Callable[[Array], Array] = ratio
    unit: Unit = "fraction"
    higher_is_better: bool = True
    compares_items: bool = False

    @property
    def value(self) -> float:
        return float(self.combine(self.statistics.sum(axis=0)))

    @property
    def measured(self) -> int:
        """How many items have the score."""
        return int(self.statistics.any(axis=1).sum())


def mean_score(name: str, per_item: Sequence[float | None], unit: Unit = "fraction", scale: float = 1.0) -> Score:
    """The mean of values per item; None: the item has none, and does not count. scale: of all values"""
    values = np.array([np.nan if value is None else value * scale for value in per_item], dtype=np.float64)
    has = ~np.isnan(values)
    return Score(name, np.stack([np.where(has, values, 0.0), has.astype(np.float64)], axis=1), values, unit=unit)


class Metric(ABC):
    """Scores of answers. `names` of the scores are fixed by the settings, so that a YAML can be checked before.

    config   the metric's Config
    """

    lower_is_better: frozenset[str] = frozenset()  # names of its scores of which a lower value is better
    # what items must have: "references", or fields of their line. `scores` gets no readable item without them
    needs: frozenset[str] = frozenset({"references"})
    # scoring again needs Java, a model, or a file made for these very answers: comparisons take the stored values
    is_costly: bool = False
    has_corpus_statistics: bool = False  # an item's value depends on the other items: groups are scored anew
    scores_later: bool = False  # from a file made of these very answers by another command: a training cannot have it
    checks_alone: bool = True  # whether one item can be scored alone, which checks a task before it asks anything
    Config: type[Any]
    config: Any

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def packages(self) -> tuple[str, ...]:
        """Optional packages that `scores` imports; a YAML is refused before anything is asked where one is missing."""
        return ()

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of its scores, the headline first: ("bleu_4", "bleu_1", ...)."""

    @abstractmethod
    def scores(self, items: Sequence[Item]) -> list[Score]:
        """A score per name, in the order of `names`. Deterministic: no random numbers, no order of dictionaries.

        raises   DataError that names the item if the items are of another kind of task
        """

    def check(self, item: Item) -> None:  # noqa: B027
        """Before anything is asked, of a metric that cannot score the first question alone.

        raises   DataError that names the item if it is of another kind of task
        """

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        """How the answers were read, for example by which rule and how many; shown beside the scores."""
        return {}


HELPERS = ("choice", "shared", "text", "yes_no")  # files here that are no metric
METRICS: Registry[Metric] = Registry("metric", "chatbridge.tasks.metrics", besides=HELPERS)
