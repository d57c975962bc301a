"""Accuracy of MUSIC-AVQA for generated answers, whose official models choose one of 42 answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chatbridge.tasks.metrics.base import METRICS, Item, Metric, Score, mean_score
from chatbridge.tasks.metrics.text import named, normalise

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
MORE = "more than ten"
INSTRUMENTS = (
    "accordion", "acoustic guitar", "bagpipe", "banjo", "bassoon", "cello", "clarinet", "congas", "drum",
    "electric bass", "erhu", "flute", "guzheng", "piano", "pipa", "saxophone", "suona", "trumpet", "tuba", "ukulele",
    "violin", "xylophone",
)  # fmt: skip
OTHERS = ("yes", "no", "left", "middle", "right", "indoor", "outdoor", "simultaneously")
ANSWERS = (*NUMBERS, MORE, *INSTRUMENTS, *OTHERS)  # the 42 answers of the data set
DIGITS = {str(number): word for number, word in enumerate(NUMBERS)}


@METRICS.register("avqa_accuracy")
class AVQAAccuracy(Metric):
    """Whether an answer is the correct one of the 42 answers of MUSIC-AVQA.

    Case, punctuation, articles and underscores make no difference ("Acoustic_guitar"), and numbers may be digits: "3"
    is three, and 11 is "more than ten" where that is correct. `equal` accepts nothing else in the answer; `named`
    accepts a sentence that names the correct answer and no other of the 42: "I hear the violin", but not "violins".
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        match: Literal["equal", "named"] = "equal"  # the answer alone, or a sentence that names it and no other

    config: Config

    @property
    def names(self) -> tuple[str, ...]:
        return ("avqa_accuracy",)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        """The fraction of correct answers."""
        return [mean_score("avqa_accuracy", [float(not item.problem and self._is_correct(item)) for item in items])]

    def _is_correct(self, item: Item) -> bool:
        answer, references = spelled(item.prediction), {spelled(one) for one in item.references}
        if answer in references or (MORE in references and answer.isdecimal() and int(answer) > 10):
            return True
        return self.config.match == "named" and _named(answer, references) in references


def spelled(text: str) -> str:
    """The answer in the words of the data set: "2" -> "two", "Acoustic_guitar." -> "acoustic guitar"."""
    return " ".join(DIGITS.get(word, word) for word in normalise(text.replace("_", " ")).split())


def _named(answer: str, references: set[str]) -> str | None:
    """The only known answer inside the text; None if it names none or several."""
    known = list(dict.fromkeys([*ANSWERS, *sorted(references)]))
    found = [one for one, is_there in zip(known, named(answer, known), strict=True) if is_there]
    found = [one for one in found if not any(one != other and named(other, [one])[0] for other in found)]
    return found[0] if len(found) == 1 else None
