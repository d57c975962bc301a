"""TextBind's conversations, in which both sides show images (formats/textbind.py).

An image of the user is a media item, an image of the assistant a drawing with its caption. Both are read from the
folder that the record names, or from `image_folder` where it names none.

A last question without an answer is left out of training and counted, as the reference does in silence; with
`unanswered: keep` it is the prompt of an evaluation or of `generate`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from chatbridge.common.errors import DataError, MediaError, Problem
from chatbridge.config.schema import missing_path
from chatbridge.conversation.messages import Conversation, media_parts
from chatbridge.datasets.builders._annotation_file import AnnotationDataset, AnnotationFileConfig
from chatbridge.datasets.builders._turn_messages import unanswered
from chatbridge.datasets.builders.base import BUILDERS
from chatbridge.datasets.formats.records import Parsed
from chatbridge.datasets.formats.selection import Unanswered
from chatbridge.datasets.formats.textbind import TEXTBIND_FORMATS, ImageDialogue

LONGEST = 200  # characters of a name in a message
MOST_NAMED = 3  # faults, or folders, in one message
logger = logging.getLogger(__name__)


@BUILDERS.register("textbind")
class TextBind(AnnotationDataset[ImageDialogue]):
    @dataclass(frozen=True, kw_only=True)
    class Config(AnnotationFileConfig):
        formats: ClassVar = TEXTBIND_FORMATS
        format: Literal["textbind"] = "textbind"  # layout of the file
        root: Path | None = None  # folder that relative `image_dir` of records start from; null: the working directory
        image_folder: Path | None = None  # folder of the images of records without `image_dir`
        # records that cannot be used (numbers of <image> and files that differ, missing captions ...): refuse the file,
        # or leave them out and count them
        faulty: Literal["refuse", "skip"] = "refuse"
        unanswered: Unanswered = "skip"

        @property
        def captions(self) -> bool:
            """Whether images of the assistant must have their captions: prompts show them only."""
            return self.unanswered != "keep"

        def problems(self) -> Iterator[Problem]:
            yield from super().problems()
            for key in ("root", "image_folder"):
                path = getattr(self, key)
                if path is not None and (problem := missing_path(path, "folder")):
                    yield replace(problem, path=key)

    config: Config
    record_type = ImageDialogue

    def __init__(self, config: Config, name: str):
        self.modalities = frozenset()
        self._folders: Counter[Path] = Counter()  # folder -> records with images in it
        self._num_open = self._num_drawings = 0
        self._faults: list[tuple[str, str]] = []  # (place, fault) of records that are left out
        super().__init__(config, name)
        self._check_folders()
        if note := self._left_out():
            level = logging.WARNING if self._faults else logging.INFO
            logger.log(level, "source %s: %s: %s", name, config.annotations, note)

    @property
    def has_drawings(self) -> bool:
        return self._num_drawings > 0

    def note(self) -> str | None:
        return "; ".join(filter(None, (self._left_out(), super().note()))) or None

    def usable(self, found: Iterable[Parsed[ImageDialogue]]) -> Iterator[Parsed[ImageDialogue]]:
        """Without the records that `faulty: skip` leaves out, unless there are no others."""
        is_used = False
        for one in found:
            fault = one.fault if one.record is None else self.fault(one.record)
            if fault is not None and self.config.faulty == "skip":
                self._faults.append((one.place, fault))
                continue
            is_used = True
            if one.record is not None and fault is None:
                self._count(one.record)
            yield one
        if self._faults and not is_used:
            yield from (Parsed(place, None, fault) for place, fault in self._faults)

    def fault(self, record: ImageDialogue) -> str | None:
        if record.has_images and not record.image_dir and self.config.image_folder is None:
            return "has images and no 'image_dir'; set image_folder to the folder of its images"
        return None

    def is_open(self, record: ImageDialogue) -> bool:
        return self.config.unanswered == "keep" and (record.ends_with_question or not record.turns[-1].has_content)

    def conversation(self, record: ImageDialogue, rng: np.random.Generator) -> tuple[Conversation, tuple[str, ...]]:
        is_open = self.is_open(record)
        messages = record.conversation(self._folder(record), with_question=is_open)
        if not is_open:
            return messages, (messages[-1].text,)
        asked = messages if record.ends_with_question else messages[:-1]
        if not asked[-1].has_content and not any(media_parts(asked[-1:])):
            raise MediaError("its last question has neither text nor images, so there is nothing to answer")
        return unanswered(messages), ()

    def _count(self, record: ImageDialogue) -> None:
        """Add the folders, drawings and last questions of a record."""
        if record.has_images:
            self.modalities = frozenset(("image",))
            self._folders[self._folder(record)] += 1
        self._num_drawings += sum(len(turn.captions) for turn in record.turns)
        self._num_open += record.ends_with_question

    def _folder(self, record: ImageDialogue) -> Path:
        if record.image_dir:
            return (self.config.root or Path()) / record.image_dir
        return self.config.image_folder or Path()

    def _check_folders(self) -> None:
        """raises DataError with the folders of images that do not exist"""
        absent = [(folder, count) for folder, count in self._folders.most_common() if not _is_folder(folder)]
        if not absent:
            return
        named = ", ".join(f"{str(folder)[:LONGEST]} ({count} records)" for folder, count in absent[:MOST_NAMED])
        more = f" and {len(absent) - MOST_NAMED} more" if len(absent) > MOST_NAMED else ""
        raise DataError(
            f"{self.config.annotations}: the records name folders of images that do not exist: {named}{more}; set root "
            "to the folder that relative names start from, or download the images: "
            "python -m dataset_prep.textbind download --help"
        )

    def _left_out(self) -> str | None:
        """What `faulty: skip` left out, and the last questions that training does not use."""
        notes = []
        if self._faults:
            first = "; ".join(": ".join(one) for one in self._faults[:MOST_NAMED])
            notes.append(f"records left out: {len(self._faults)} ({first})")
        if self._num_open and self.config.unanswered != "keep":
            notes.append(f"last questions without an answer, left out: {self._num_open}")
        return "; ".join(notes) or None


def _is_folder(path: Path) -> bool:
    """False also for a text that cannot be the name of a file, such as a very long text."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
