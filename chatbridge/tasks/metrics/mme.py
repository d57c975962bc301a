"""The scores of MME's official tool: yes or no about an image, twice per image.

accuracy        share of the questions with the correct answer
accuracy_plus   share of the images with both answers correct
A question that cannot be read is an incorrect answer to that question, and to its image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, detail, mean_score
from chatbridge.tasks.metrics.shared import all_correct, prompt_number
from chatbridge.tasks.metrics.yes_no import VERDICTS, one_line, yes_or_no


@METRICS.register("mme")
class MMEScores(Metric):
    """Takes items with the details `subject`, `image` and `answer`."""

    needs = frozenset()

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    @property
    def names(self) -> tuple[str, ...]:
        return ("accuracy", "accuracy_plus")

    def scores(self, items: Sequence[Item]) -> list[Score]:
        right = [float(item.problem is None and verdict(item) == detail(item, "answer", str).lower()) for item in items]
        images = [
            (str(detail(item, "subject")), str(detail(item, "image")), prompt_number(item.details)) for item in items
        ]
        return [mean_score("accuracy", right), mean_score("accuracy_plus", all_correct(right, images))]

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        """How many answers are yes, no and other; an unreadable question has none."""
        given = [verdict(item) for item in items if item.problem is None]
        return {name: given.count(name) for name in VERDICTS}


def verdict(item: Item) -> str:
    """ "yes", "no" or "other" """
    return yes_or_no(one_line(item.prediction))
