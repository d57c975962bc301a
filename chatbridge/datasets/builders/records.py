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
           turn; default: only the assistant's
parts      {"type": "text", "text": ...}
           {"type": "image" | "video" | "audio", "path": ...}          from `root`; a video may be a folder of frames;
                                                                       plugins add types (conversation/modalities.py)
           {"type": "drawing", "caption": ..., "path": ...}            an image the assistant makes. Training needs its
                                                                       path; the answer an evaluation asks for does not
answers    (optional) every correct answer when this is a question of an evaluation
details    (optional) an object with anything else; evaluation can group its results by these fields

Media keep the position of their part. A marker of another layout ("<image>") in the text of the user is a failure of
that record, unless it is markup: in backticks, or beside its closing tag.

Every line is checked when the source is opened; a misspelled key is an error that names the line. At least one turn
must be supervised, unless `unanswered: keep` makes prompts of records that end with a question. Media files are opened
when they are read, so a missing file is a failure of one sample, not of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from chatbridge.common.errors import Problem
from chatbridge.common.text_repair import repaired
from chatbridge.config.schema import missing_path
from chatbridge.conversation.messages import Drawing, Media, Message, Part, Text
from chatbridge.datasets.builders._media_markers import check_typed
from chatbridge.datasets.builders._record_check import Drawings, has_answer, record_fault
from chatbridge.datasets.builders._turn_messages import unanswered
from chatbridge.datasets.builders.base import BUILDERS, Dataset, DatasetConfig, Record
from chatbridge.datasets.formats.json_fields import answer_of
from chatbridge.datasets.formats.json_stream import RECORD_LIST, section
from chatbridge.datasets.media_paths import media_path
from chatbridge.datasets.packed_records import pack
from chatbridge.datasets.unique_names import UniqueNames


@BUILDERS.register("records")
class Records(Dataset):
    @dataclass(frozen=True, kw_only=True)
    class Config(DatasetConfig):
        file: Path  # the .jsonl
        root: Path | None = None  # folder of relative media paths; null: the folder of `file`
        # records that end with a question: refuse the file, or keep them as prompts of an evaluation or of `generate`
        unanswered: Literal["refuse", "keep"] = "refuse"

        def problems(self) -> Iterator[Problem]:
            if problem := missing_path(self.file, "file"):
                yield replace(problem, path="file")
            if self.root is not None and (problem := missing_path(self.root, "folder")):
                yield replace(problem, path="root")

    config: Config

    def __init__(self, config: Config, name: str):
        super().__init__(config, name)
        found: set[str] = set()
        self._drawings = Drawings()
        self._root = config.root or config.file.parent
        self._records = pack(config.file, _checked(config.file, found, config.unanswered == "keep", self._drawings))
        self.modalities = frozenset(found)
        self._settle(len(self._records), str(config.file))

    def note(self) -> str | None:
        return self._records.note

    @property
    def has_drawings(self) -> bool:
        return self._drawings.count > 0

    def untrainable(self) -> str | None:
        return self._drawings.fault(self.config.file)

    def sample_id(self, index: int) -> str:
        stored = self._stored(index)
        return str(self._records[stored].get("id", f"{self.config.file.name}#{stored}"))

    def record(self, index: int, rng: np.random.Generator) -> Record:
        record = self._records[self._stored(index)]
        messages = tuple(self._message(message) for message in record["messages"])
        for number, message in enumerate(messages):
            if message.role == "user":
                check_typed(message.parts, number)
        if self.config.unanswered == "keep" and not has_answer(record):
            messages = unanswered(messages)
        answers = tuple(answer_of(answer) or "" for answer in record.get("answers", ()))
        return Record(self.sample_id(index), messages, answers, record.get("details", {}))

    def _message(self, message: dict[str, Any]) -> Message:
        content = message["content"]
        parts = (Text(content),) if isinstance(content, str) else tuple(self._part(part) for part in content)
        return Message(message["role"], parts, message.get("supervised"))

    def _part(self, part: dict[str, Any]) -> Part:
        if part["type"] == "text":
            return Text(part["text"])
        if part["type"] == "drawing":
            return Drawing(part["caption"], media_path(self._root, part["path"]) if "path" in part else None)
        return Media(part["type"], media_path(self._root, part["path"]))


def _checked(
    path: Path, modalities: set[str], keeps_questions: bool, drawings: Drawings
) -> Iterator[tuple[str, Any, str | None]]:
    """(place, record, what is wrong with it) of every line, with unique ids; adds to `modalities` and `drawings`."""
    unique = UniqueNames()
    for line in section(path, *RECORD_LIST):
        fault = line.fault or record_fault(line.value, modalities, keeps_questions)
        if fault is None:
            drawings.add(line.place, line.value)
            if "id" in line.value:
                line.value["id"] = unique(repaired(str(line.value["id"])))
        yield line.place, line.value, fault
