"""MMBench: questions with options about images in a table (formats/mmbench.py has its columns).

Files with a copy of every question per rotation of its options are evaluated in circles; `rotate` makes such copies of
a file without them. `limit` counts questions: all copies of a question are asked or none.
Images are decoded when they are read; one that is damaged makes its questions unreadable, which count as incorrect.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError, MediaError, Problem
from chatbridge.config.schema import missing_path
from chatbridge.conversation.messages import Media
from chatbridge.datasets.builders._prompt_form import IMAGE, asked, form_problems
from chatbridge.datasets.builders._prompts import QUESTION
from chatbridge.datasets.builders._question_groups import QuestionGroups
from chatbridge.datasets.builders._turn_messages import answered
from chatbridge.datasets.builders.base import BUILDERS, DatasetConfig, Record
from chatbridge.datasets.formats.mmbench import ChoiceQuestion, columns, mmbench
from chatbridge.datasets.formats.tsv import row_at
from chatbridge.datasets.packed_records import pack

HINT, OPTIONS = "<HINT>", "<OPTIONS>"
ADDRESS = "base64,"  # ends the head of a data: address


@BUILDERS.register("mmbench")
class MMBench(QuestionGroups):
    """Details of a sample: `index`, `question` (without its image), `hint`, `options` (letter -> text), `answer` ("" in
    a test split), `base` and `copy` (the question that it is a copy of, and the number of the copy; 0: itself),
    `category` and `l2-category` where the file has them."""

    @dataclass(frozen=True, kw_only=True)
    class Config(DatasetConfig):
        file: Path  # the .tsv
        # the turn of the user; <HINT> is left out where a question has none, <OPTIONS> is a line per option: "A. red"
        prompt: str = f"{IMAGE} {HINT} {QUESTION} There are several options:\n{OPTIONS}\n"
        rotate: bool = False  # ask each question once per option, with the options rotated (circular evaluation)

        def problems(self) -> Iterator[Problem]:
            if problem := missing_path(self.file, "file"):
                yield replace(problem, path="file")
            yield from form_problems(self.prompt, (QUESTION, OPTIONS), (HINT,))

    config: Config

    def __init__(self, config: Config, name: str):
        super().__init__(config, name)
        self.modalities = frozenset({"image"})
        self._num_unanswered, self._has_copies = 0, False
        groups: dict[int, int] = {}  # index of a question -> its number
        numbers: list[int] = []
        self._packed = pack(config.file, self._read(groups, numbers))
        self._image_column = columns(config.file).index("image")
        self._settle_groups(numbers, str(config.file))
        if config.rotate and self._has_copies:
            raise DataError(f"{config.file}: holds copies with rotated options already; remove rotate")

    def note(self) -> str | None:
        if not self._num_unanswered:
            return None
        return f"{self._num_unanswered} questions have no answer: they are asked, and not scored"

    def untrainable(self) -> str | None:
        if not self._num_unanswered:
            return None
        return f"{self.config.file}: {self._num_unanswered} questions have no answer"

    def sample_id(self, index: int) -> str:
        return str(self._packed[self._stored(index)]["index"])

    def shared_id(self, index: int) -> str:
        return str(self._packed[self._stored(index)]["base"])

    def details(self, index: int) -> Mapping[str, Any]:
        found = self._packed[self._stored(index)]
        return {key: value for key, value in found.items() if key != "image"}

    def references(self, index: int) -> tuple[str, ...]:
        answer = self._packed[self._stored(index)]["answer"]
        return (answer,) if answer else ()

    def record(self, index: int, rng: np.random.Generator) -> Record:
        found = self._packed[self._stored(index)]
        listed = "\n".join(f"{letter}. {text}" for letter, text in found["options"].items())
        fields = {HINT: found["hint"], QUESTION: found["question"], OPTIONS: listed}
        turn = asked(self.config.prompt, Media("image", self._image(*found["image"])), fields)
        answer = found["answer"] or None
        messages = answered(answer, *turn.parts)
        return Record(str(found["index"]), messages, self.references(index), self.details(index))

    def _image(self, start: int, length: int) -> bytes:
        """The bytes of the image file in the row at these bytes. raises MediaError"""
        file = self.config.file
        try:
            cell = row_at(file, start, length)[self._image_column].strip()
        except (OSError, ValueError, IndexError, StopIteration) as error:
            raise MediaError(f"{file}: has changed since it was opened ({type(error).__name__})") from None
        if not cell:
            raise MediaError("the cell 'image' is empty")
        content = cell.partition(ADDRESS)[2] if cell.startswith("data:") else cell
        try:
            return base64.b64decode("".join(content.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise MediaError(f"the cell 'image' is not base64 ({error}); it begins with {cell[:20]!r}") from None

    def _read(self, groups: dict[int, int], numbers: list[int]) -> Iterator[tuple[str, Any, str | None]]:
        """Every question with its copies for `pack`; their groups are added to `numbers`."""
        for one in mmbench(self.config.file):
            if one.record is None:
                yield one.place, None, one.fault
                continue
            self._num_unanswered += not one.record.answer
            self._has_copies |= one.record.copy > 0
            for by in range(len(one.record.options) if self.config.rotate else 1):
                question = one.record.rotated(by)
                numbers.append(groups.setdefault(question.base, len(groups)))
                yield one.place, _packed(question), None


def _packed(question: ChoiceQuestion) -> dict[str, Any]:
    return {
        "index": question.index,
        "base": question.base,
        "copy": question.copy,
        "question": question.question,
        "hint": question.hint,
        "options": dict(question.options),
        "answer": question.answer,
        **question.kept,
        "image": (question.span.start, question.span.length),
    }
