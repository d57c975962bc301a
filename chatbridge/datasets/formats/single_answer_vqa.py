"""Questions about images with one answer each.

gqa       train_balanced_questions.json: {"02930152": {"imageId", "question", "answer", "fullAnswer", "types": {...}}};
          `full_answers: true` answers in a sentence. Submission files have no answers.
vg        Visual Genome's question_answers.json: [{"id": image, "qas": [{"qa_id", "question", "answer"}]}]; images are
          <id>.jpg, in image_folder itself, its VG_100K or its VG_100K_2.
ocrvqa    dataset.json: {"0000913154": {"imageURL", "questions": [...], "answers": [...], "title", "genre", "split"}};
          split 1, 2, 3 is train, val, test; the cover is <key> with the ending of its address. One record per question.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, kind_of
from chatbridge.datasets.formats.json_stream import JsonValue, json_values, section
from chatbridge.datasets.formats.records import Format, Parsed, QuestionRecord, parsed_one

OCR_SPLITS = {"1": "train", "2": "val", "3": "test"}


def gqa(annotations: Path, full_answers: bool = False) -> Iterator[Parsed[QuestionRecord]]:
    """One record per question, in the order of the file."""
    for value in _object_values(annotations, "question id"):
        yield parsed_one(value, partial(_gqa, value, "fullAnswer" if full_answers else "answer"))


def _gqa(value: JsonValue, answer: str) -> QuestionRecord:
    fields = Fields(value.value)
    types = fields.record.get("types")
    return QuestionRecord(
        id=str(value.key),
        names=(f"{fields.name('imageId')}.jpg",),
        questions=((fields.text("question"), fields.answers(answer)),),
        details=Fields(types).kept("structural", "semantic") if isinstance(types, dict) else {},
    )


def vg(annotations: Path) -> Iterator[Parsed[QuestionRecord]]:
    """One record per question of every image."""
    for value in section(annotations, ""):
        try:
            fields = Fields(value.value) if value.fault is None else None
            asked = fields.items("qas") if fields else [None]
            image = fields.name("id", "image_id") if fields and asked else ""
        except BadRecord as error:
            yield Parsed(value.place, None, str(error))
            continue
        for number, one in enumerate(asked):
            yield parsed_one(value, partial(_vg, one, image), f", question {number}")


def _vg(value: Any, image: str) -> QuestionRecord:
    fields = Fields(value)
    return QuestionRecord(
        id=fields.name("qa_id"),
        names=tuple(f"{folder}{image}.jpg" for folder in ("", "VG_100K/", "VG_100K_2/")),
        questions=((fields.text("question"), fields.answers("answer")),),
    )


def ocrvqa(annotations: Path) -> Iterator[Parsed[QuestionRecord]]:
    """One record per question of every cover."""
    for value in _object_values(annotations, "image id"):
        try:
            fields = Fields(value.value)
            questions, answers = fields.items("questions"), fields.record.get("answers") or []
            if answers and len(answers) != len(questions):
                raise BadRecord(f"has {len(questions)} questions and {len(answers)} answers")
            cover, details = _cover(str(value.key), fields)
        except BadRecord as error:
            yield Parsed(value.place, None, str(error))
            continue
        for number, asked in enumerate(zip(questions, answers or [None] * len(questions))):
            read = partial(_ocrvqa, f"{value.key}_{number}", cover, asked, details)
            yield parsed_one(value, read, f", question {number}")


def _cover(key: str, fields: Fields) -> tuple[str, dict[str, Any]]:
    """The file of a cover, and the details of its questions."""
    split = fields.name("split")
    if split not in OCR_SPLITS:
        raise BadRecord(f"'split' is {split}, expected 1 (train), 2 (val) or 3 (test)")
    ending = PurePosixPath("".join(fields.texts("imageURL"))).suffix or ".jpg"
    return key + ending, {"split": OCR_SPLITS[split], **fields.kept("genre")}


def _ocrvqa(name: str, cover: str, asked: tuple[Any, Any], details: dict[str, Any]) -> QuestionRecord:
    fields = Fields({"question": asked[0], "answer": asked[1]})
    pair = fields.text("question"), fields.answers("answer")
    return QuestionRecord(id=name, names=(cover,), questions=(pair,), details=details)


def _object_values(path: Path, what: str) -> Iterator[JsonValue]:
    """The values of an object from ids to records. raises DataError for another layout"""
    seen: set[str] = set()
    for value in json_values(path):
        if isinstance(value.key, int) or value.section or not isinstance(value.value, dict):
            found = "a list" if isinstance(value.key, int) else f"{kind_of(value.value)} under {value.key!r}"
            raise DataError(f"{path}: expected an object from {what} to a record, found {found}")
        yield value if value.key not in seen else value._replace(fault=f"the {what} {value.key} is defined twice")
        seen.add(value.key)


SINGLE_ANSWER_FORMATS = {
    "gqa": Format(QuestionRecord, gqa, ("full_answers",)),
    "vg": Format(QuestionRecord, vg),
    "ocrvqa": Format(QuestionRecord, ocrvqa, has_splits=True),
}
