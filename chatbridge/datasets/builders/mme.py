"""MME: two questions about every image, answered with yes or no (formats/mme.py has the layout of the folder).

A sample is one question. `limit` counts images, so that both questions of an image are asked or none.
An image that is missing or cannot be read makes its questions unreadable: they count as incorrect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import MediaError, Problem, nearest
from chatbridge.config.schema import missing_path
from chatbridge.conversation.messages import Media, assistant
from chatbridge.datasets.builders._prompt_form import IMAGE, asked, form_problems
from chatbridge.datasets.builders._prompts import QUESTION
from chatbridge.datasets.builders._question_groups import QuestionGroups
from chatbridge.datasets.builders.base import BUILDERS, DatasetConfig, Record
from chatbridge.datasets.formats.mme import PER_IMAGE, SUBJECTS, mme
from chatbridge.datasets.packed_records import pack


@BUILDERS.register("mme")
class MME(QuestionGroups):
    """Details of a sample: `subject`, `image` (the name of its file), `asked` (the question alone), `answer`."""

    @dataclass(frozen=True, kw_only=True)
    class Config(DatasetConfig):
        folder: Path  # MME_Benchmark_release_version: a folder per subject
        subjects: tuple[str, ...] | None = None  # only these; null: all 14, and a missing one is an error
        prompt: str = f"{IMAGE} {QUESTION}"  # the turn of the user

        def problems(self) -> Iterator[Problem]:
            if problem := missing_path(self.folder, "folder"):
                yield replace(problem, path="folder")
            for name in self.subjects or ():
                if name not in SUBJECTS:
                    message = f"there is no subject {name!r}"
                    yield Problem("subjects", message, allowed=SUBJECTS, nearest=nearest(name, SUBJECTS))
            if len(set(self.subjects or ())) < len(self.subjects or ()):
                yield Problem("subjects", "names a subject twice")
            yield from form_problems(self.prompt, (QUESTION,))

    config: Config

    def __init__(self, config: Config, name: str):
        super().__init__(config, name)
        self.modalities = frozenset({"image"})
        self._missing: list[str] = []
        self._packed = pack(config.folder, self._read())  # one value per image
        groups = list(chain.from_iterable(repeat(image, PER_IMAGE) for image in range(len(self._packed))))
        self._settle_groups(groups, str(config.folder))

    def note(self) -> str | None:
        if not self._missing:
            return None
        one = len(self._missing) == 1
        return (
            f"{len(self._missing)} text file{' has' if one else 's have'} no image (the first: {self._missing[0]}); "
            "questions about it count as incorrect"
        )

    def sample_id(self, index: int) -> str:
        subject, file, _, _, number = self._question(index)
        return f"{subject}/{Path(file).stem}/{number + 1}"

    def shared_id(self, index: int) -> str:
        return self._question(index)[1]

    def details(self, index: int) -> Mapping[str, Any]:
        subject, file, answer, question, _ = self._question(index)
        return {"subject": subject, "image": Path(file).name, "asked": question, "answer": answer}

    def references(self, index: int) -> tuple[str, ...]:
        return (self._question(index)[2],)

    def record(self, index: int, rng: np.random.Generator) -> Record:
        _, file, answer, question, _ = self._question(index)
        path = self.config.folder / file
        if file in self._missing or not path.is_file():
            raise MediaError(f"{path}: no such image, nor with another ending, in the folders of its subject")
        turn = asked(self.config.prompt, Media("image", path), {QUESTION: question})
        return Record(self.sample_id(index), (turn, assistant(answer)), (answer,), self.details(index))

    def _question(self, index: int) -> tuple[str, str, str, str, int]:
        """Subject, image, answer, question and its number, of the index-th question."""
        image, number = divmod(self._stored(index), PER_IMAGE)
        subject, file, questions = self._packed[image]
        question, answer = questions[number]
        return subject, file, answer, question, number

    def _read(self) -> Iterator[tuple[str, Any, str | None]]:
        for one in mme(self.config.folder, self.config.subjects):
            found = one.record
            if found is not None and not found.has_file:
                self._missing.append(found.file)
            yield one.place, found and [found.subject, found.file, found.questions], one.fault
