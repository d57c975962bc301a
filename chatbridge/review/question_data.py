"""A question file of a review as the data set of a task: its questions are read, batched and decoded as in an
evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from chatbridge.common.text_repair import repaired
from chatbridge.conversation.messages import Media, assistant
from chatbridge.conversation.question_form import QuestionForm
from chatbridge.datasets.builders.base import Dataset, DatasetConfig, Record
from chatbridge.datasets.media_paths import media_path
from chatbridge.review.input_files import ReviewQuestion, key_of, read_questions

COCO_PREFIXES = ("COCO_val2014_", "COCO_train2014_")  # of files in COCO's folders; question files leave them out


class QuestionFile(Dataset):
    """The questions, each a turn of the user with its media and no answer.

    raises   DataError for a file with mistakes
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(DatasetConfig):
        file: Path  # the questions
        root: Path | None = None  # folder of relative media paths; null: the folder of `file`
        form: QuestionForm = field(default_factory=QuestionForm)  # where the media of a question are placed

    config: Config

    def __init__(self, config: Config, name: str):
        super().__init__(config, name)
        self.questions = read_questions(config.file)
        self.modalities = frozenset(modality for one in self.questions for modality in one.media)
        self._root = config.root or config.file.parent
        self._settle(len(self.questions), str(config.file))

    def sample_id(self, index: int) -> str:
        return key_of(self.questions[index].id)

    def record(self, index: int, rng: np.random.Generator) -> Record:
        question = self.questions[index]
        message = self.config.form.message(self.media(question), repaired(question.text))
        return Record(key_of(question.id), (message, assistant("")), details={"category": question.category})

    def media(self, question: ReviewQuestion) -> tuple[Media, ...]:
        """The media of a question; a file that is not there has its plain path.

        raises   MediaError for a name that no file can have
        """
        return tuple(Media(modality, self._path(name)) for modality, name in question.media.items())

    def _path(self, name: str) -> Path:
        """The file of this name, or the same one with a prefix of COCO."""
        path = media_path(self._root, name)
        if path.exists():
            return path
        prefixed = (path.with_name(f"{prefix}{path.name}") for prefix in COCO_PREFIXES)
        return next((other for other in prefixed if other.exists()), path)
