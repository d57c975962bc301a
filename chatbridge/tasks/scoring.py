"""Scores of predictions, from their file alone: repeatable, and with other metrics than those of the evaluation.

items = items_of(read_rows(path), path.parent)
scored = Scored.of(built_metrics({"cider": {}, "bleu": {}}), items)
scored.values                                # {"cider": 1.02, "bleu_4": 0.31, ...}
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError
from chatbridge.common.log import get_logger
from chatbridge.tasks.metrics.base import Item, Metric, Score
from chatbridge.tasks.metrics.shared import asked_item
from chatbridge.tasks.statistics import interval

NO_GROUP = "(none)"  # group of the items without a field

log = get_logger(__name__)
MOST_REASONS = 20  # different reasons in a file of scores; the others are counted together
WITHOUT_SOUND = "asked without the sound of the video"
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
QUOTED = r"""(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")"""
NOT_FOUND = re.compile(rf"(no \w+ file) for {QUOTED}(?: or {QUOTED})*( in .*?)(?: \(tried it as it is .*)?$", re.DOTALL)


@dataclass(frozen=True)
class Scored:
    """Items with all their scores; a part of the items has the same class.

    metrics   name -> metric, for its counts
    scores    by name, the headline first; a score that no item has is not there
    """

    metrics: Mapping[str, Metric]
    items: tuple[Item, ...]
    scores: Mapping[str, Score]

    @classmethod
    def of(cls, metrics: Mapping[str, Metric], items: Sequence[Item], main_metric: str | None = None) -> Scored:
        """The scores of all metrics. main_metric: name of the headline; None: the first score that there is

        raises   DataError that names the item if the items are of another kind of task
        """
        found = {score.name: score for name, one in metrics.items() for score in scores_of(name, one, items)}
        ordered = sorted(found, key=lambda name: name != main_metric)
        return cls(metrics, tuple(items), {name: found[name] for name in ordered})

    @property
    def headline(self) -> str | None:
        """Name of the first score that has a value."""
        return next(iter(self.values), None)

    @cached_property
    def values(self) -> dict[str, float]:
        """Name -> value. A score that is not defined for these items, such as 0/0, is left out."""
        return {name: value for name, score in self.scores.items() if not math.isnan(value := score.value)}

    @cached_property
    def measured(self) -> dict[str, int]:
        """Name -> how many items have the score."""
        return {name: self.scores[name].measured for name in self.values}

    @property
    def counts(self) -> dict[str, int]:
        """How the answers were read, of all metrics that tell, and how many were given without a video's sound."""
        found: dict[str, int] = {}
        if silent := sum(item.problem is None and _is_silent(item) for item in self.items):
            found[WITHOUT_SOUND] = silent
        for metric in self.metrics.values():
            found |= metric.counts([self.items[at] for at in _kept(metric, self.items)])
        return found

    @property
    def without_score(self) -> list[str]:
        """The metrics that give no score, because no item has what they need."""
        return [name for name, one in self.metrics.items() if not self.values.keys() & set(one.names)]

    @cached_property
    def unreadable(self) -> dict[str, int]:
        """Reason -> how many items have no answer because of it, the most frequent first."""
        kinds: dict[str, list[str]] = {}  # reasons that differ by numbers only
        for reason in [_reason(item.problem) for item in self.items if item.problem is not None]:
            kinds.setdefault(NUMBER.sub("N", reason), []).append(reason)
        reasons = Counter({kind if len({*same}) > 1 else same[0]: len(same) for kind, same in kinds.items()})
        found = dict(reasons.most_common(MOST_REASONS))
        others = sum(reasons.values()) - sum(found.values())
        return {**found, **({"other reasons": others} if others else {})}

    @cached_property
    def notes(self) -> dict[str, int]:
        """What may be a mistake in the file -> how many items."""
        readable = [item for item in self.items if item.problem is None]
        found = {
            "predictions without text": sum(not item.prediction.strip() for item in readable),
            "items without references": sum(not item.references for item in readable),
            "items whose references have no words": sum(_is_wordless(item.references) for item in readable),
            "items with equal options": sum(_has_equal_options(item.details.get("options")) for item in readable),
        }
        return {name: count for name, count in found.items() if count}

    def part(self, is_in: Callable[[Item], bool]) -> Scored:
        """The items of a part, with their share of every score."""
        return self._at([number for number, item in enumerate(self.items) if is_in(item)])

    def by(self, field: str) -> dict[str, Scored]:
        """Value of an annotation field -> the items that have it, sorted; "(none)" where the field is missing.

        An item whose field is a list is in the group of each of its values. A metric with word statistics of all
        items scores a group as if it were a file of its own, as the published tables of NoCaps are made.
        """
        numbers: dict[str, list[int]] = {}
        for number, item in enumerate(self.items):
            for value in groups_of(item.details, field):
                numbers.setdefault(value, []).append(number)
        again = {name: one for name, one in self.metrics.items() if one.has_corpus_statistics}
        return {value: self._at(numbers[value], again) for value in sorted(numbers)}

    def _at(self, numbers: list[int], again: Mapping[str, Metric] | None = None) -> Scored:
        """These items. again: metrics that score them anew, without the others"""
        at = np.array(numbers, dtype=int)
        scores = {
            name: replace(one, statistics=one.statistics[at], per_item=one.per_item[at])
            for name, one in self.scores.items()
        }
        kept = {name: one for name, one in scores.items() if one.measured}
        items = tuple(self.items[number] for number in numbers)
        if again:
            anew = Scored.of(again, items).scores
            kept |= {name: one for name, one in anew.items() if name in kept}
        return Scored(self.metrics, items, kept)

    def intervals(self, resample_by: Sequence[str] = ()) -> dict[str, list[float]]:
        """Name -> [low, high], the 95% bootstrap interval of each score.

        resample_by   annotation fields whose values name the items that are drawn together
        """
        groups = None
        if resample_by:
            groups = [drawn_with(item, resample_by) for item in self.items]
            if all(group[0] == "alone" for group in groups):
                log.warning("resample_by: no item has %s in its details; each is drawn alone", " or ".join(resample_by))
        found = {name: interval(self.scores[name], groups) for name in self.values}
        return {name: [low, high] for name, (low, high) in found.items() if not math.isnan(low + high)}

    def per_item(self) -> dict[str, dict[str, float]]:
        """Score -> id -> value of the items that have one alone."""
        return {
            name: {
                item.id: float(value)
                for item, value in zip(self.items, score.per_item, strict=True)
                if not math.isnan(value)
            }
            for name, score in self.scores.items()
        }


def scores_of(name: str, metric: Metric, items: Sequence[Item]) -> list[Score]:
    """The scores that a metric gives, with an entry per item. Without what the metric needs an item has no score.

    raises   DataError if the items have nothing of what the metric needs: another kind of task
    """
    kept = _kept(metric, items)
    if not items:
        return []
    if all(items[at].problem is not None for at in kept) and any(item.problem is None for item in items):
        if metric.needs == {"references"}:
            return []
        raise DataError(
            f"metric {name} needs {', '.join(sorted(metric.needs))}, which no line has: "
            "the file is of another kind of task; choose another metric"
        )
    found = [_expanded(score, kept, len(items)) for score in metric.scores([items[at] for at in kept])]
    directed = [replace(one, higher_is_better=one.name not in metric.lower_is_better) for one in found]
    return [score for score in directed if score.measured]


def drawn_with(item: Item, fields: Sequence[str]) -> tuple[str, ...]:
    """The values that items drawn together share. An item without any of the fields is drawn alone, with all its
    prompts."""
    if not any(field in item.details for field in fields):
        return ("alone", asked_item(item.id, item.details))
    return tuple(group_of(item, field) for field in fields)


def group_of(item: Item, field: str) -> str:
    return str(item.details.get(field, NO_GROUP))


def groups_of(details: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """The groups of results that an item with these details is in: one for every value of a list."""
    value = details.get(field, NO_GROUP)
    return tuple(dict.fromkeys(map(str, value))) or (NO_GROUP,) if isinstance(value, (list, tuple)) else (str(value),)


def _kept(metric: Metric, items: Sequence[Item]) -> list[int]:
    """Numbers of the items that a metric gets: unreadable ones, and those with all that it needs."""
    return [at for at, item in enumerate(items) if item.problem is not None or _has(item, metric.needs)]


def _has(item: Item, needs: frozenset[str]) -> bool:
    """Whether an item has references, or the other fields of its line, that a metric needs."""
    return all(bool(item.references) if name == "references" else name in item.row for name in needs)


def _expanded(score: Score, at: list[int], count: int) -> Score:
    """The score of some of `count` items as one of all: the others do not have it."""
    if len(at) == count:
        return score
    statistics, per_item = np.zeros((count, score.statistics.shape[1])), np.full(count, np.nan)
    statistics[at], per_item[at] = score.statistics, score.per_item
    return replace(score, statistics=statistics, per_item=per_item)


def _is_wordless(references: Sequence[str]) -> bool:
    """Whether there are references, but no letter or digit in any of them."""
    return bool(references) and not any(letter.isalnum() for one in references for letter in one)


def _is_silent(item: Item) -> bool:
    """Whether the prompt said that the video has no sound, as an evaluation writes it into the line."""
    reason = item.row.get("without_sound")
    return isinstance(reason, str) and bool(reason.strip())


def _has_equal_options(options: Any) -> bool:
    """Whether two options have the same text, so that the choice between them is one by chance."""
    if not isinstance(options, Mapping):
        return False
    texts = [text.strip() for text in options.values() if isinstance(text, str)]
    return len({*texts}) < len(texts)


def _reason(problem: str) -> str:
    """A reason without the name of its file, so that equal ones are counted together."""
    if found := NOT_FOUND.match(problem):
        return f"{found[1]}{found[2]}"[:200]
    place, _, reason = problem.partition(": ")
    is_file = " " not in place or "/" in place
    return (reason if reason and is_file else problem)[:200]
