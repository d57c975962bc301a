"""Every question of a data set asked with each of several prompts, and the spread of the scores over them.

The lines of the first prompt keep the ids of the data set; those of the second have the id `<id>@2`, and so on, so that
adding a prompt changes no other line. `details` have the number of the prompt as `prompt` and the id of the data set as
`item`; intervals resample the lines of an item together.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from chatbridge.common.errors import Problem
from chatbridge.conversation.messages import Conversation, Media
from chatbridge.datasets.builders import Dataset, Record
from chatbridge.tasks.metrics.shared import prompt_number
from chatbridge.tasks.scoring import Scored

ITEM, PROMPT = "item", "prompt"  # in details


def opened(dataset: Any, prompts: Sequence[str], name: str) -> Dataset:
    """The data set of a task, asked with each of the prompts; without any as it is.

    dataset   a Choice with the Config of a builder
    raises    DataError if it cannot be used
    """
    if not prompts:
        return dataset.part(dataset.config, name)
    return SeveralPrompts([dataset.part(replace(dataset.config, prompt=text), name) for text in prompts])


_NO_PROMPT = (
    "remove them, write the text into the data, or use a data set with a prompt: questions, captions, choices ..."
)


def prompt_problems(dataset: Any, prompts: Sequence[str]) -> Iterator[Problem]:
    """Prompts of a data set that has no `prompt`, two equal ones, and what the data set says of each."""
    if not prompts:
        return
    if not any(one.name == "prompt" for one in fields(dataset.config)):
        message = f"the data set {dataset.name!r} has no setting `prompt`, which they would replace"
        yield Problem("prompts", message, hint=_NO_PROMPT)
        return
    known = list(dataset.config.problems())
    for number, text in enumerate(prompts):
        path = f"prompts[{number}]"
        if text in prompts[:number]:
            yield Problem(path, f"is equal to prompts[{prompts.index(text)}]", hint="remove one of both")
        for one in replace(dataset.config, prompt=text).problems():
            if one.path == "prompt":
                yield replace(one, path=path)
            elif one not in known:  # of another setting beside a prompt: a list of prompts
                yield replace(one, path=f"dataset.{one.path}")
                known.append(one)


class SeveralPrompts(Dataset):
    """The questions of data sets that differ in their prompt: question 0 with each prompt, question 1, ..."""

    def __init__(self, asked: Sequence[Dataset]) -> None:
        self.asked = tuple(asked)
        first = self.asked[0]
        self.config, self.name, self.modalities = first.config, first.name, first.modalities

    def __len__(self) -> int:
        return len(self.asked[0]) * len(self.asked)

    def _at(self, index: int) -> tuple[Dataset, int, int]:
        """The data set with the prompt of a line, its question, and the number of the prompt, from 1."""
        question, number = divmod(index, len(self.asked))
        return self.asked[number], question, number + 1

    def sample_id(self, index: int) -> str:
        dataset, question, number = self._at(index)
        return _id(dataset.sample_id(question), number)

    def shared_id(self, index: int) -> str:
        dataset, question, _ = self._at(index)
        return dataset.shared_id(question)

    def details(self, index: int) -> Mapping[str, Any]:
        dataset, question, number = self._at(index)
        return {**dataset.details(question), ITEM: dataset.sample_id(question), PROMPT: number}

    def options(self, index: int) -> Mapping[str, Any]:
        dataset, question, _ = self._at(index)
        return dataset.options(question)

    def references(self, index: int) -> tuple[str, ...]:
        dataset, question, _ = self._at(index)
        return dataset.references(question)

    def record(self, index: int, rng: np.random.Generator) -> Record:
        dataset, question, number = self._at(index)
        record = dataset.record(question, rng)
        details = {**record.details, ITEM: record.id, PROMPT: number}
        return replace(record, id=_id(record.id, number), details=details)

    def every_media(self, index: int) -> tuple[Media, ...]:
        dataset, question, _ = self._at(index)
        return dataset.every_media(question)

    def outline(self, index: int, rng: np.random.Generator) -> Conversation:
        dataset, question, _ = self._at(index)
        return dataset.outline(question, rng)

    @property
    def has_drawings(self) -> bool:
        return self.asked[0].has_drawings

    def meant_by(self, name: str) -> Sequence[str]:
        return self.asked[0].meant_by(name)

    def untrainable(self) -> str | None:
        return self.asked[0].untrainable()

    def note(self) -> str | None:
        return self.asked[0].note()

    def doubt(self) -> str | None:
        return self.asked[0].doubt()

    def commands(self) -> tuple[str, ...]:
        return self.asked[0].commands()


def _id(name: str, number: int) -> str:
    return name if number == 1 else f"{name}@{number}"


def by_prompt(scored: Scored, prompts: Sequence[str]) -> dict[str, Any]:
    """The scores of each prompt, in the order of the prompts.

    texts    the prompts
    scores   name -> `each` (its value with each prompt), `mean`, `deviation` (standard deviation of a sample), `low`,
             `high`; a score that some prompt does not have is left out
    """
    parts = [
        scored.part(lambda item, number=number: prompt_number(item.details) == number).values
        for number in range(1, len(prompts) + 1)
    ]
    shared = [name for name in scored.values if all(name in part for part in parts)]
    return {"texts": list(prompts), "scores": {name: _spread([part[name] for part in parts]) for name in shared}}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "each": list(values),
        "mean": statistics.fmean(values),
        "deviation": statistics.stdev(values),
        "low": min(values),
        "high": max(values),
    }
