"""The project's own format, for data without any Python: one JSON object per line.

    {"id": "kitchen-7",
     "messages": [
       {"role": "user", "content": [{"type": "video", "path": "clips/7.mp4"},
                                    {"type": "audio", "path": "clips/7.wav"},
                                    {"type": "text", "text": "What is being cooked, and what do you hear?"}]},
       {"role": "assistant", "content": "Onions are frying; the extractor hums."},
       {"role": "user", "content": "And here?"}, ...
     ],
     "answers": ["onions", "fried onions"],
     "details": {"kind": "food"}}

id         name of the sample in messages; default: the name of the file and the position in it, from 0; a repeated id
           becomes id#2
messages   turns in order. role: system, user or assistant. content: text, or a list of parts in the order in which they
           are read, in any number and in any turn. supervised (optional): whether the loss counts the text of this
           turn; default: only the assistant's. plain (optional): true says that "<image>" in the text of this turn
           is what a person wrote; files that a chat saves have it where it matters
parts      {"type": "text", "text": ...}
           {"type": "image" | "video" | "audio" | "depth" | "thermal" | "imu", "path": ...}
                                                                       from `root`; a video may be a folder of frames;
                                                                       plugins add types (conversation/modalities.py)
           {"type": "drawing", "caption": ..., "path": ...}            an image the assistant makes. Training needs its
                                                                       path; the answer an evaluation asks for does not
answers    (optional) every correct answer when this is a question of an evaluation
details    (optional) an object with anything else; evaluation can group its results by these fields

Media keep the position of their part. A marker of another layout ("<image>") in the text of the user is a failure of
that record, unless it is markup: in backticks, or beside its closing tag.

Every line is checked when the source is opened; a misspelled key is an error that names the line. At least one turn
must be supervised, unless `unanswered: keep` makes prompts of records that end with a question. A line that is answered
and sets `supervised: false` for each answer (a chat writes one for an answer that was voted down) is left out and
counted. Media files are opened when they are read, so a missing file is a failure of one sample, not of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from chatbridge.common.errors import DataError, MediaError, Problem
from chatbridge.common.text_repair import repaired
from chatbridge.config.schema import missing_path
from chatbridge.conversation.messages import Conversation, Drawing, media_parts
from chatbridge.datasets.builders._turn_messages import check_typed, unanswered
from chatbridge.datasets.builders.base import BUILDERS, Dataset, DatasetConfig, Record
from chatbridge.datasets.formats.json_fields import Fields
from chatbridge.datasets.formats.json_stream import RECORD_LIST, section
from chatbridge.datasets.formats.record_messages import read_answers, read_messages
from chatbridge.datasets.formats.records import parsed
from chatbridge.datasets.media_paths import media_path
from chatbridge.datasets.packed_records import pack
from chatbridge.datasets.unique_names import UniqueNames

HINT = "; `unanswered: keep` makes such records prompts, and `python -m chatbridge generate` answers them"
FAULT = "fault"  # the key of a line that is kept with its mistake
MOST_NAMED = 3  # drawings without an image, in one message


@BUILDERS.register("records")
class Records(Dataset):
    @dataclass(frozen=True, kw_only=True)
    class Config(DatasetConfig):
        file: Path  # the .jsonl
        root: Path | None = None  # folder of relative media paths; null: the folder of `file`
        # records that end with a question: refuse the file, or keep them as prompts of an evaluation or of `generate`
        unanswered: Literal["refuse", "keep"] = "refuse"
        # lines with a mistake: refuse the file, or keep each as a sample that cannot be read, with its reason
        faulty: Literal["refuse", "keep"] = "refuse"

        def problems(self) -> Iterator[Problem]:
            if problem := missing_path(self.file, "file"):
                yield replace(problem, path="file")
            if self.root is not None and (problem := missing_path(self.root, "folder")):
                yield replace(problem, path="root")

    config: Config

    def __init__(self, config: Config, name: str):
        super().__init__(config, name)
        self.modalities = frozenset()
        self._root = config.root or config.file.parent
        self._num_drawings = 0
        self._undrawn: list[str] = []  # places of drawings without an image
        self._num_left_out = self._num_faulty = 0
        self._records = pack(config.file, self._checked())
        if self._num_faulty and self._num_faulty == len(self._records):
            raise DataError(f"{config.file}: no line can be used; the first: {self._records[0][FAULT]}")
        if self._num_left_out and not len(self._records):
            raise DataError(f"{config.file}: nothing is supervised: every line has `supervised: false` for its answers")
        self._settle(len(self._records), str(config.file))

    def note(self) -> str | None:
        count = self._num_left_out
        left_out = f"{count:,} lines are left out: `supervised: false` for each of their answers" if count else None
        return "; ".join(filter(None, (self._records.note, left_out))) or None

    @property
    def has_drawings(self) -> bool:
        return self._num_drawings > 0

    def untrainable(self) -> str | None:
        if not self._undrawn:
            return None
        named = "; ".join(self._undrawn[:MOST_NAMED]) + ("; ..." if len(self._undrawn) > MOST_NAMED else "")
        return (
            f"{self.config.file}: {len(self._undrawn)} of {self._num_drawings} drawings have no image ({named}); "
            "training needs the image of every drawing"
        )

    def sample_id(self, index: int) -> str:
        stored = self._stored(index)
        return self._name(stored, self._records[stored])

    def details(self, index: int) -> Mapping[str, Any]:
        return self._records[self._stored(index)].get("details", {})

    def options(self, index: int) -> Mapping[str, Any]:
        return self._records[self._stored(index)].get("options", {})

    def references(self, index: int) -> tuple[str, ...]:
        record = self._records[self._stored(index)]
        if FAULT in record:
            return ()
        messages = read_messages(Fields(record), Path)  # files are not looked up
        last = next((message.text for message in reversed(messages) if message.role == "assistant"), "")
        last = "" if _is_rejected(messages) else last
        return read_answers(record) or ((last,) if last.strip() else ())

    def record(self, index: int, rng: np.random.Generator) -> Record:
        stored = self._stored(index)
        record = self._records[stored]
        if FAULT in record:
            raise MediaError(f"the line cannot be used: {record[FAULT]}")
        messages = read_messages(Fields(record), partial(media_path, self._root))
        for number, message in enumerate(messages):
            if message.role == "user" and not record["messages"][number].get("plain"):
                check_typed(message.parts, number)
        if self._is_prompt(messages):
            asked = next(message for message in reversed(messages) if message.role == "user")
            if not asked.has_content and not any(media_parts((asked,))):
                raise MediaError("its last question has neither text nor files, so there is nothing to answer")
            messages = unanswered(messages)
        return Record(self._name(stored, record), messages, read_answers(record), record.get("details", {}))

    def _name(self, stored: int, record: dict[str, Any]) -> str:
        return str(record.get("id", f"{self.config.file.name}#{stored}"))

    def _is_prompt(self, messages: Conversation) -> bool:
        """Whether an evaluation asks for the answer: there is none with text at the end."""
        has_answer = bool(messages) and messages[-1].role == "assistant" and messages[-1].has_content
        return self.config.unanswered == "keep" and (not has_answer or _is_rejected(messages))

    def _checked(self) -> Iterator[tuple[str, Any, str | None]]:
        """(place, record, what is wrong with it) of every line, with unique ids."""
        unique = UniqueNames()
        for line in section(self.config.file, *RECORD_LIST):
            found = parsed(line, read_messages, Path)  # files are looked up when a sample is read
            if found.record is not None and self.config.unanswered == "refuse" and _is_rejected(found.record):
                self._num_left_out += 1
                continue
            fault = found.fault if found.record is None else self._fault(found.record)
            if found.record is not None and fault is None:
                self._count(line.place, found.record)
            value = line.value
            if fault is not None and self.config.faulty == "keep":
                value, fault = _kept(value, fault), None
                self._num_faulty += 1
            if fault is None and "id" in value:
                value["id"] = unique(repaired(str(value["id"])))
            yield line.place, value, fault

    def _fault(self, messages: Conversation) -> str | None:
        """Why a line is neither a training sample nor a prompt."""
        if self._is_prompt(messages):
            is_asked = any(message.role == "user" for message in messages)
            return None if is_asked else "has no question: no turn of the user"
        is_supervised = any(message.is_supervised for message in messages)
        return None if is_supervised else f"nothing is supervised: no turn of the assistant has text{HINT}"

    def _count(self, place: str, messages: Conversation) -> None:
        """Add the modalities and drawings of a line."""
        self.modalities |= {item.modality for item in media_parts(messages)}
        for number, message in enumerate(messages):
            self._num_drawings += sum(isinstance(part, Drawing) for part in message.parts)
            self._undrawn += [f"{place}: message {number}"] * len(message.drawings_without_image)


def _kept(value: Any, fault: str) -> dict[str, Any]:
    """A line with a mistake, as far as its question can be named."""
    name = value.get("id") if isinstance(value, dict) else None
    is_name = isinstance(name, (str, int)) and not isinstance(name, bool)
    return {FAULT: fault} | ({"id": name} if is_name else {})


def _is_rejected(messages: Conversation) -> bool:
    """Whether a line has answers, and says of each that it is not supervised, as of one that was voted down."""
    answers = [message for message in messages if message.role == "assistant" and message.has_content]
    others = [message for message in messages if message.role != "assistant"]
    is_none = not any(message.is_supervised for message in others)
    return bool(answers) and is_none and all(message.supervised is False for message in answers)
