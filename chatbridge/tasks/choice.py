"""Questions with options: the model names a letter, or the likelihood of every option is measured, or both.

Takes any data set whose details have `options` (letter -> text, or a list of texts, which get A, B, ...) and `answer`
(the letter of the correct one; "" where it is not known: such a question is asked and not scored). How the options are
shown is the data set's: its `prompt`, `option_form` and `option_separator`.

Rotations of the options (`rotate: true` of a data set) are scored together: a question is correct if every rotation of
it is (metrics/circular.py), which is the headline score then; without rotations there are no such scores.

A line of the predictions has, besides what every task writes,
    options          letter -> text
    option_logprobs  letter -> natural log-probability of the option as the answer, the sum over its tokens
    option_tokens    letter -> number of these tokens
    prediction       the generated answer; with `answer: likelihood` the letter of the most likely option
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chatbridge.common.errors import DataError, MediaError, Problem
from chatbridge.conversation.text_cleaning import find_markers
from chatbridge.datasets.formats.placed_choices import MARK
from chatbridge.models.language.likelihood import Likelihood
from chatbridge.tasks.base import TASKS, Task, TaskConfig
from chatbridge.tasks.metrics._options import lettered
from chatbridge.tasks.metrics.choice_likelihood import LOGPROBS, TOKENS, most_likely

LIKELIHOODS = ("choice_likelihood", "choice_likelihood_normalised")


@TASKS.register("choice")
class ChoiceTask(Task):
    """Asks for one of several options: by a generated letter, by the likelihood of the options, or both."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 16  # length of the longest answer: a letter, or the text of an option
        # how the model chooses. letter: it generates, and rules read the option (metrics/choice.py). likelihood: the
        # most likely option, without generating
        answer: Literal["letter", "likelihood", "both"] = "letter"
        likelihood_of: Literal["text", "letter"] = "text"  # what of an option is measured as the answer
        score_end: bool = False  # measure the end of the turn too, so that "yes" is no beginning of "yes, two"
        resample_by: tuple[str, ...] = ("base",)  # a question and its rotations are resampled together

        @property
        def writes(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
            measured = frozenset() if self.answer == "letter" else frozenset({LOGPROBS, TOKENS})
            return frozenset({"references", "options"}) | measured

        @property
        def default_metrics(self) -> Mapping[str, Mapping[str, Any]]:
            read = {"letter": ("choice_letter",), "likelihood": LIKELIHOODS, "both": ("choice_letter", *LIKELIHOODS)}
            letter = {} if self.answer == "likelihood" else {"choice_letter": {}}
            likelihood = {} if self.answer == "letter" else {"choice_likelihood": {}}
            return {"circular": {"of": [*read[self.answer]], "optional": True}, **letter, **likelihood}

        def problems(self) -> Iterator[Problem]:
            yield from super().problems()
            hint = "set answer: likelihood or both, or remove it"
            for name in ("likelihood_of", "score_end") if self.answer == "letter" else ():
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    yield Problem(name, "has no effect with answer: letter", hint=hint)
            if self.answer == "likelihood":
                for name in ("sample", "min_new_tokens", "num_beams", "max_drawings"):
                    if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                        hint = "set answer: letter or both, or remove it"
                        yield Problem(name, "has no effect with answer: likelihood: nothing is generated", hint=hint)

    config: Config

    def __init__(self, config: Any, name: str, opens_data: bool = True) -> None:
        super().__init__(config, name, opens_data)
        if opens_data:
            self._check_options()

    def _check_options(self) -> None:
        """raises   DataError if the first question shows that the data set does not fit"""
        details, first = self.dataset.details(0), f"{self.dataset.sample_id(0)!r} of {self.config.dataset.name!r}"
        if lettered(details.get("options")) is None:
            raise DataError(
                f"task {self.name!r}: the data set has no options for the kind choice: the details of {first} have "
                f"{', '.join(details) or 'nothing'}, expected `options` and `answer`; take the data set choices or "
                "mmbench, or details of the data set records"
            )
        try:
            self.measured_texts(details)
        except MediaError as error:
            raise DataError(f"task {self.name!r}: {first}: {error}") from None

    @property
    def generates(self) -> bool:
        return self.config.answer != "likelihood"

    @property
    def measures_end(self) -> bool:
        return self.config.score_end

    def measured_texts(self, details: Mapping[str, Any]) -> dict[str, str]:
        options = lettered(details.get("options"))
        if options is None:
            raise MediaError(f"its options are {details.get('options')!r}, expected at least two texts")
        if self.config.answer == "letter":
            return {}
        if self.config.likelihood_of == "letter":
            return {letter: letter for letter in options}
        if any(MARK.search(text) or find_markers(text) for text in options.values()):
            raise MediaError("its options are files, not texts to be measured; set likelihood_of: letter")
        return {letter: text.strip() for letter, text in options.items()}

    def likelihood_fields(self, details: Mapping[str, Any], found: Mapping[str, Likelihood]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if (options := lettered(details.get("options"))) is not None:
            fields["options"] = options
        if found:
            fields[LOGPROBS] = {letter: one.total for letter, one in found.items()}
            fields[TOKENS] = {letter: len(one.logprobs) for letter, one in found.items()}
            if not self.generates:
                fields["prediction"] = most_likely(fields[LOGPROBS])
        return fields
