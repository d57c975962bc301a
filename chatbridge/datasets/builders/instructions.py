"""Instructions in words alone: alpaca, dolly, baize and sharegpt files (datasets/formats/instructions.py).

They keep a model's language while it learns to see and hear, a source of its own with its own weight. Where the
language model is frozen they teach nothing: no trained part takes part in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from chatbridge.common.errors import MediaError
from chatbridge.config.schema import Range
from chatbridge.conversation.messages import Message
from chatbridge.datasets.builders._formats import FormatConfig, read_layout
from chatbridge.datasets.builders._turns import roles_and_words, to_messages, unanswered
from chatbridge.datasets.builders.base import BUILDERS, Dataset, Record
from chatbridge.datasets.formats.instructions import INSTRUCTION_FORMATS
from chatbridge.datasets.formats.screening import Unanswered


@BUILDERS.register("instructions")
class Instructions(Dataset):
    @dataclass(frozen=True, kw_only=True)
    class Config(FormatConfig):
        formats: ClassVar = INSTRUCTION_FORMATS
        format: Literal["alpaca", "dolly", "baize", "sharegpt"]  # layout of the file
        preamble: bool = False  # alpaca: begin with the sentence of Alpaca's own prompts
        max_turns: Annotated[int, Range(low=2)] | None = None  # turns used of a dialogue; null: all
        unanswered: Unanswered = "skip"

    config: Config

    def __init__(self, config: Config, name: str):
        super().__init__(config, name)
        self.modalities = frozenset()
        self._records = read_layout(config, config.formats[config.format], name, _fault)
        self._settle(len(self._records), str(config.annotations))

    def note(self) -> str | None:
        return self._records.note

    def sample_id(self, index: int) -> str:
        return self._records[self._stored(index)]["_id"]

    def record(self, index: int, rng: np.random.Generator) -> Record:
        record = self._records[self._stored(index)]
        messages = self._messages(record)
        details = {key: value for key, value in record.items() if not key.startswith("_") and key != "conversations"}
        if record["_unanswered"]:
            return Record(record["_id"], unanswered(messages), (), details)
        if not any(message.is_supervised for message in messages):
            raise MediaError("the record has no words of the assistant to learn from")
        return Record(record["_id"], messages, (messages[-1].text,), details)

    def _messages(self, record: dict[str, Any]) -> tuple[Message, ...]:
        """Only ShareGPT's layout knows markers of media; in the others "<image>" is a word like any other."""
        return to_messages(
            roles_and_words(record["conversations"]),
            limit=self.config.max_turns,
            in_dialogue=self.config.format in ("baize", "sharegpt"),
            is_open=record["_unanswered"],
            has_markers=self.config.format == "sharegpt",
        )


def _fault(record: dict[str, Any]) -> str | None:
    files = record.get("_files")
    if files:
        return f"has {next(iter(files))} files; the builder `dialogues` takes them"
    return None
