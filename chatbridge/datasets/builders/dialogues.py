"""Dialogues: LLaVA's and MULTIS's lists (formats/multis.py), or a public layout of formats/dialogues.py.

Tags `*-det` and `*-rea` use the first question and answer of MULTIS, `*-conv` the first eight turns; public layouts use
every turn. The media precede the text of the first turn of the user; markers ("<image>", with or without line breaks)
are removed from the text. Records of llava and sharegpt may hold any number of files of the tag's media, also none;
several files are put at their markers. A record whose markers and files differ in number cannot be used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from chatbridge.config.schema import Range
from chatbridge.conversation.messages import Conversation
from chatbridge.datasets.builders._annotated_media import AnnotatedMedia, AnnotatedMediaConfig
from chatbridge.datasets.builders._turn_messages import to_messages, unanswered, used_turns
from chatbridge.datasets.builders.base import BUILDERS
from chatbridge.datasets.formats import multis
from chatbridge.datasets.formats.dialogues import DIALOGUE_FORMATS
from chatbridge.datasets.formats.records import DialogueRecord
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
        unanswered: Unanswered = "skip"

        @property
        def turn_limit(self) -> int | None:
            return self.max_turns or (MOST_TURNS[self.task] if self.layout.is_multis else None)

    config: Config
    record_type = DialogueRecord

    def fault(self, record: DialogueRecord) -> str | None:
        used = used_turns(record.turns, self.config.turn_limit, True, is_open=self.is_open(record))
        return None if used else "has no answer among the turns that are used"

    def conversation(self, record: DialogueRecord, rng: np.random.Generator) -> tuple[Conversation, tuple[str, ...]]:
        is_open = self.is_open(record)
        messages = to_messages(
            record.turns,
            self.media(record),
            self.config.turn_limit,
            in_dialogue=self.config.task == "conv",
            is_named_once=record.files is None,
            is_open=is_open,
        )
        if is_open:
            return unanswered(messages), ()
        return messages, (messages[-1].text,) if messages else ()
