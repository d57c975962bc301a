"""Accuracy against the answers of about ten people, as the official VQA script computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chatbridge.common.log import get_logger
from chatbridge.tasks.metrics._vqa_answer import normal_form, one_line, without_punctuation
from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score

ENOUGH = 3  # people with the same answer make it fully correct
log = get_logger(__name__)


@METRICS.register("vqa_accuracy")
class VQAAccuracy(Metric):
    """min(1, equal answers / 3), averaged over leaving out one of the ten people after the other, in percent.

    official   the current script: answers are compared in their normal form, unless all ten people gave the same one,
               which the answer must then equal letter by letter
    earlier    the script before 2018, which LAVIS contains and ChatBridge's authors used: the answer always has its
               normal form, and the people's answers lose punctuation only, so "two" and "Yes" of a person never match
    a_okvqa    of the direct answers of A-OKVQA: nobody is left out, and the text must be equal up to case and blanks
               around it, which its script compares too. Questions with `difficult_direct_answer` in their details are
               not measured
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        # which script's rules: the current one of VQA, the one before 2018 inside LAVIS, or that of A-OKVQA
        script: Literal["official", "earlier", "a_okvqa"] = "official"

    config: Config

    @property
    def names(self) -> tuple[str, ...]:
        return ("vqa_accuracy",)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        """The accuracy in percent. Where one reference is all there is, leaving it out leaves 0, as officially."""
        alone = [item.id for item in items if len(item.references) == 1]
        if alone and self.config.script != "a_okvqa":
            log.warning(
                "vqa_accuracy: %d of %d items have a single reference (first: %r) and score 0, since each person is "
                "left out in turn; use exact_match for data with one correct answer", len(alone), len(items), alone[0]
            )  # fmt: skip
        values = [self._value(item) for item in items]
        return [mean_score("vqa_accuracy", values, unit="percent", scale=100.0)]

    def _value(self, item: Item) -> float | None:
        if self.config.script == "a_okvqa" and item.details.get("difficult_direct_answer") is True:
            return None
        return 0.0 if item.problem else self._accuracy(item.prediction, item.references)

    def _accuracy(self, answer: str, people: Sequence[str]) -> float:
        if self.config.script == "a_okvqa":
            return min(1.0, sum(answer.strip().lower() == one.strip().lower() for one in people) / ENOUGH)
        answer, people = (official if self.config.script == "official" else earlier)(answer, people)
        return leave_one_out(answer, people)


def official(answer: str, people: Sequence[str]) -> tuple[str, list[str]]:
    """The answer and those of the people as the current script compares them."""
    answer, people = one_line(answer), [one_line(one) for one in people]
    if len(set(people)) <= 1:
        return answer, people
    return normal_form(answer), [normal_form(one) for one in people]


def earlier(answer: str, people: Sequence[str]) -> tuple[str, list[str]]:
    """The answer and those of the people as the script before 2018 compares them."""
    differ = len(set(people)) > 1
    return normal_form(one_line(answer)), [without_punctuation(one) if differ else one for one in people]


def leave_one_out(answer: str, people: Sequence[str]) -> float:
    """Mean over the people of the accuracy that the others' answers give; 0 without people."""
    equal = [one == answer for one in people]
    others = (min(1.0, (sum(equal) - own) / ENOUGH) for own in equal)
    return sum(others) / len(people) if people else 0.0
