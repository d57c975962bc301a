"""Text-only instructions: alpaca, dolly, baize and sharegpt files (formats/instructions.py).

They preserve the language of a model while it is trained on images and audio, as a source with its own weight. Where
the language model is frozen they have no effect: no trainable part takes part in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from chatbridge.common.errors import MediaError
from chatbridge.config.schema import Range
from chatbridge.conversation.messages import Conversation
from chatbridge.datasets.builders._annotation_file import AnnotationDataset, AnnotationFileConfig
from chatbridge.datasets.builders._turn_messages import NO_QUESTION, to_messages, unanswered
from chatbridge.datasets.builders.base import BUILDERS
from chatbridge.datasets.formats.dialogues import LineBreaks
from chatbridge.datasets.formats.instructions import INPUT_HEADER, INSTRUCTION_FORMATS
from chatbridge.datasets.formats.records import DialogueRecord
from chatbridge.datasets.formats.selection import Unanswered


@BUILDERS.register("instructions")
class Instructions(AnnotationDataset[DialogueRecord]):
    @dataclass(frozen=True, kw_only=True)
    class Config(AnnotationFileConfig):
        formats: ClassVar = INSTRUCTION_FORMATS
        format: Literal["alpaca", "dolly", "baize", "sharegpt"]  # layout of the file
        preamble: bool = False  # alpaca: begin with the sentence of Alpaca's own prompts
        input_header: str = INPUT_HEADER  # alpaca, dolly: text between the instruction and its input
        # baize: keep the line breaks of questions and answers, or delete them as Multimodal-GPT did
        line_breaks: LineBreaks = "keep"
        max_turns: Annotated[int, Range(low=2)] | None = None  # turns used of a dialogue; null: all
        unanswered: Unanswered = "skip"

    config: Config
    record_type = DialogueRecord
    modalities = frozenset()

    def fault(self, record: DialogueRecord) -> str | None:
        return f"has {next(iter(record.files))} files; the builder `dialogues` takes them" if record.files else None

    def conversation(self, record: DialogueRecord, rng: np.random.Generator) -> tuple[Conversation, tuple[str, ...]]:
        is_open = self.is_open(record)
        if self.config.format in ("alpaca", "dolly") and not all(text.strip() for _, text in record.turns[:-1]):
            raise MediaError(NO_QUESTION)
        messages = to_messages(
            record.turns,
            limit=self.config.max_turns,
            in_dialogue=self.config.format in ("baize", "sharegpt"),
            is_open=is_open,
            has_markers=self.config.format == "sharegpt",  # in the other layouts "<image>" is a word
        )
        if is_open:
            return unanswered(messages), ()
        return messages, (messages[-1].text,) if messages else ()
