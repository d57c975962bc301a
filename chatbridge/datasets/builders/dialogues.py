"""Dialogues: LLaVA's and MULTIS's lists (formats/multis.py), or a public layout of formats/dialogues.py.

Tags `*-det` and `*-rea` use the first question and answer of MULTIS, `*-conv` the first eight turns; public layouts use
every turn. The media precede the text of the first turn of the user; markers ("<image>", with or without line breaks)
are removed from the text. Records of llava and sharegpt may hold any number of files of the tag's media, also none;
several files are put at their markers, and so is a single one with `single: marker`. A record whose markers and files
differ in number cannot be used.

Two settings give what Multimodal-GPT was trained on. `line_breaks: remove` deletes the line breaks inside questions.
`pairing: overlapping` reproduces an error of its dialogues: round k asks message k and is answered by message k + 1, so
every second round asks an answer and trains the model to write the next question; half of the messages are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal

import numpy as np

from chatbridge.common.errors import Problem
from chatbridge.config.schema import Range
from chatbridge.conversation.messages import Conversation, Media, Message, Text
from chatbridge.datasets.builders._annotated_media import AnnotatedMedia, AnnotatedMediaConfig
from chatbridge.datasets.builders._turn_messages import to_messages, unanswered, used_turns
from chatbridge.datasets.builders.base import BUILDERS
from chatbridge.datasets.formats import multis
from chatbridge.datasets.formats.dialogues import DIALOGUE_FORMATS, LineBreaks, in_lines, overlapping
from chatbridge.datasets.formats.records import DialogueRecord, Turn
from chatbridge.datasets.formats.selection import Unanswered

MOST_TURNS = {"det": 2, "rea": 2, "conv": 8}  # of MULTIS, as published


@BUILDERS.register("dialogues")
class Dialogues(AnnotatedMedia[DialogueRecord]):
    @dataclass(frozen=True, kw_only=True)
    class Config(AnnotatedMediaConfig):
        tasks: ClassVar[tuple[str, ...]] = ("det", "rea", "conv")
        formats: ClassVar = {"multis": multis.DIALOGUES, **DIALOGUE_FORMATS}
        format: Literal["multis", "llava", "sharegpt", "avsd", "videochat"] = "multis"  # layout of the file
        max_turns: Annotated[int, Range(low=2)] | None = None  # turns used; null: multis as published, others all
        context: tuple[Literal["caption", "summary"], ...] = ()  # avsd: texts put before the first question
        references: Path | None = None  # avsd: the file with several answers to every last question (..._multiref.json)
        # avsd: most rounds before the last question; 0: the question without its history; null: all rounds
        history: Annotated[int, Range(low=0)] | None = None
        # llava, sharegpt: a single file of a record precedes the text of its turn (front, as LLaVA 1.5 trains), or is
        # where its marker is (marker, as LLaVA's first release and ChatBind train)
        single: Literal["front", "marker"] = "front"
        # llava, sharegpt: begins the names of the files where no file has the plain name, for example
        # COCO_train2014_ for LLaVA's lists over COCO 2014
        file_prefix: str = ""
        # llava, sharegpt: keep the line breaks inside questions, or delete them as Multimodal-GPT did
        line_breaks: LineBreaks = "keep"
        # llava, sharegpt: a question and its answer make a round (rounds), or every message and the next one
        # (overlapping), an error of Multimodal-GPT's training
        pairing: Literal["rounds", "overlapping"] = "rounds"
        unanswered: Unanswered = "skip"

        def problems(self) -> Iterator[Problem]:
            yield from super().problems()
            if "/" in self.file_prefix or "\\" in self.file_prefix:
                message = f"is {self.file_prefix!r}, which has a folder; it begins the name of a file"
                yield Problem("file_prefix", message, hint="put the folder into the folder of the media")

        @property
        def turn_limit(self) -> int | None:
            return self.max_turns or (MOST_TURNS[self.task] if self.layout.is_multis else None)

    config: Config
    record_type = DialogueRecord

    def fault(self, record: DialogueRecord) -> str | None:
        used = used_turns(self._turns(record), self.config.turn_limit, True, is_open=self.is_open(record))
        return None if used else "has no answer among the turns that are used"

    def conversation(self, record: DialogueRecord, rng: np.random.Generator) -> tuple[Conversation, tuple[str, ...]]:
        is_open = self.is_open(record)
        messages = to_messages(
            self._turns(record),
            self.media(record),
            self.config.turn_limit,
            in_dialogue=self.config.task == "conv",
            is_named_once=record.files is None,
            is_open=is_open,
            at_markers=self.config.single == "marker",
        )
        messages = tuple(self._in_lines(message) for message in messages)
        if is_open:
            return unanswered(messages), ()
        return messages, record.references or ((messages[-1].text,) if messages else ())

    def answers(self, record: DialogueRecord) -> tuple[str, ...]:
        if record.references or self.is_open(record):
            return record.references
        turns = self._turns(record)
        used = [turns[number] for number in used_turns(turns, self.config.turn_limit, True)]
        return (used[-1][1],) if used and used[-1][0] == "assistant" else ()

    def _turns(self, record: DialogueRecord) -> Sequence[Turn]:
        return record.turns if self.config.pairing == "rounds" else overlapping(record.turns)

    def _in_lines(self, message: Message) -> Message:
        if message.role != "user" or self.config.line_breaks == "keep":
            return message
        kept = (replace(one, text=in_lines(one.text, "remove")) if isinstance(one, Text) else one
                for one in message.parts)  # fmt: skip
        return replace(message, parts=tuple(kept))

    def _found(self, kind: str, names: Sequence[str]) -> Media:
        """A file with the prefix is looked up after the one without."""
        prefix = self.config.file_prefix
        prefixed = (str(path.with_name(prefix + path.name)) for path in map(PurePosixPath, names)) if prefix else ()
        return super()._found(kind, (*names, *prefixed))
