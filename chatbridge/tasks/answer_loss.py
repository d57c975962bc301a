"""How likely the model finds the known answers; it generates nothing.

The score is the loss of a training step on the same conversation: the mean over the tokens of all answers, in nats, the
end of the turn included. With `report: {modalities: true}` it is measured again without the media and with those of
other questions, which shows whether a model reads its media before it can name anything.

A line of the predictions has, besides what every task writes,
    answer_logprob   natural log-probability of the answer, the sum over its tokens
    answer_tokens    number of these tokens
    prediction       "": nothing is generated
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatbridge.models.language.likelihood import Likelihood
from chatbridge.tasks.base import TASKS, Task, TaskConfig
from chatbridge.tasks.metrics.answer_loss import LOGPROB, TOKENS

ANSWER = "answer"


@TASKS.register("answer_loss")
class AnswerLoss(Task):
    """Measures the likelihood of the first known answer of each question."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 1  # has no effect: nothing is generated
        score_end: bool = True  # measure the end of the turn too, as a training does

        @property
        def writes(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
            return frozenset({"references", LOGPROB, TOKENS})

        @property
        def default_metrics(self) -> Mapping[str, Mapping[str, Any]]:
            return {"answer_loss": {}}

    config: Config

    @property
    def generates(self) -> bool:
        return False

    @property
    def measures_end(self) -> bool:
        return self.config.score_end

    def measured_references(self, references: Sequence[str]) -> Mapping[str, str]:
        return {ANSWER: references[0].strip()} if references else {}

    def likelihood_fields(self, details: Mapping[str, Any], found: Mapping[str, Likelihood]) -> dict[str, Any]:
        if ANSWER not in found:
            return {}
        return {LOGPROB: found[ANSWER].total, TOKENS: len(found[ANSWER].logprobs)}
