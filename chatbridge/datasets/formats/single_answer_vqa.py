"""Questions about images with one answer each.

gqa       train_balanced_questions.json: {"02930152": {"imageId", "question", "answer", "fullAnswer", "types": {...}}};
          `full_answers: true` answers in a sentence. Submission files have no answers.
vg        Visual Genome's question_answers.json: [{"id": image, "qas": [{"qa_id", "question", "answer"}]}]; images are
          <id>.jpg, in image_folder itself, its VG_100K or its VG_100K_2.
ocrvqa    dataset.json: {"0000913154": {"imageURL", "questions": [...], "answers": [...], "title", "genre", "split"}};
          split 1, 2, 3 is train, val, test; the cover is <key> with the ending of its address. One record per question.
ocrvqa_list  [{"filename": "0000913154.jpg", "questions": [...], "answers": [...]}], OCR-VQA as LAVIS converts it. One
          record per cover, of whose questions one is drawn.
clevr     CLEVR_train_questions.json: {"questions": [{"split", "image_filename", "question", "answer"}]}; images are
          <split>/<image_filename>. Test questions have no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, answer_of, kind_of
from chatbridge.datasets.formats.json_stream import JsonValue, json_values, section
from chatbridge.datasets.formats.records import Format, Parsed, QuestionRecord, each, parsed

OCR_SPLITS = {"1": "train", "2": "val", "3": "test"}


def gqa(annotations: Path, full_answers: bool = False) -> Iterator[Parsed[QuestionRecord]]:
    """One record per question, in the order of the file."""
    for value in _object_values(annotations, "question id"):
        yield parsed(value, _gqa, str(value.key), "fullAnswer" if full_answers else "answer")


def _gqa(fields: Fields, question_id: str, answer: str) -> QuestionRecord:
    types = fields.record.get("types")
    kept = Fields(types).kept("structural", "semantic") if isinstance(types, dict) else {}
    # as the official script divides them
    asks = {"asks": "open" if kept["structural"] == "query" else "binary"} if "structural" in kept else {}
    return QuestionRecord(
        id=question_id,
        names=(f"{fields.name('imageId')}.jpg",),
        questions=((fields.text("question"), fields.answers(answer)),),
        details={**asks, **kept, **fields.kept("imageId")},
    )


def vg(annotations: Path) -> Iterator[Parsed[QuestionRecord]]:
    """One record per question of every image."""
    for value in section(annotations, ""):
        found = parsed(value, lambda fields: ((qas := fields.items("qas")), qas and fields.name("id", "image_id")))
        yield from _questions(value, found, _vg)


def _vg(fields: Fields, image: str) -> QuestionRecord:
    return QuestionRecord(
        id=fields.name("qa_id"),
        names=tuple(f"{folder}{image}.jpg" for folder in ("", "VG_100K/", "VG_100K_2/")),
        questions=((fields.text("question"), fields.answers("answer")),),
    )


def ocrvqa(annotations: Path) -> Iterator[Parsed[QuestionRecord]]:
    """One record per question of every cover."""
    for value in _object_values(annotations, "image id"):
        yield from _questions(value, parsed(value, _cover, str(value.key)), _ocrvqa)


def _cover(fields: Fields, key: str) -> tuple[list[Any], tuple[str, dict[str, Any]]]:
    """The questions about a cover as objects; its file and their details."""
    questions = fields.items("questions")
    answers = fields.items("answers") if fields.record.get("answers") else []
    if answers and len(answers) != len(questions):
        raise BadRecord(f"has {len(questions)} questions and {len(answers)} answers")
    split = fields.name("split")
    if split not in OCR_SPLITS:
        raise BadRecord(f"'split' is {split}, expected 1 (train), 2 (val) or 3 (test)")
    pairs = enumerate(zip(questions, answers or [None] * len(questions)))
    asked = [{"id": f"{key}_{number}", "question": one, "answer": answer} for number, (one, answer) in pairs]
    ending = PurePosixPath("".join(fields.texts("imageURL"))).suffix or ".jpg"
    return asked, (key + ending, {"split": OCR_SPLITS[split], **fields.kept("genre")})


def _ocrvqa(fields: Fields, cover: tuple[str, dict[str, Any]]) -> QuestionRecord:
    pair = fields.text("question"), fields.answers("answer")
    return QuestionRecord(id=fields.name("id"), names=(cover[0],), questions=(pair,), details=cover[1])


def _cover_list(fields: Fields) -> QuestionRecord:
    questions, answers = fields.one_or_more("questions"), fields.one_or_more("answers", read=answer_of)
    if len(questions) != len(answers):
        raise BadRecord(f"has {len(questions)} questions and {len(answers)} answers")
    pairs = tuple((question, (answer,)) for question, answer in zip(questions, answers) if answer.strip())
    if not pairs:
        raise BadRecord("has no answer with text")
    return QuestionRecord(names=(fields.text("filename"),), questions=pairs, details=fields.kept("genre"))


def _clevr(fields: Fields) -> QuestionRecord:
    name = fields.text("image_filename")
    folder = "".join(f"{split}/" for split in fields.texts("split"))
    number = "".join(fields.files("question_index"))
    return QuestionRecord(
        id=f"{Path(name).stem}_{number}" if number else "",
        names=(f"{folder}{name}", name) if folder else (name,),
        questions=((fields.text("question"), fields.answers("answer") if "answer" in fields.record else ()),),
        details=fields.kept("split", "question_family_index"),
    )


def _questions(
    value: JsonValue, found: Parsed[tuple[list[Any], Any]], read: Callable[[Fields, Any], QuestionRecord]
) -> Iterator[Parsed[QuestionRecord]]:
    """The records of the questions inside one value; `found` has them, and what `read` needs of the value."""
    if found.record is None:
        yield Parsed(found.place, None, found.fault)
        return
    questions, common = found.record
    for number, one in enumerate(questions):
        yield parsed(JsonValue(f"{value.place}, question {number}", "", number, one), read, common)


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
    "gqa": Format(gqa, ("full_answers",)),
    "vg": Format(vg),
    "ocrvqa": Format(ocrvqa, has_splits=True),
    "ocrvqa_list": Format(each(_cover_list, "")),
    "clevr": Format(each(_clevr, "questions")),
}
