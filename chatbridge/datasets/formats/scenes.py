"""Questions about pictures with one answer each.

gqa       train_balanced_questions.json: {"02930152": {"imageId", "question", "answer", "fullAnswer", "types": {...}}};
          `full_answers: true` answers in a sentence. Submission files have no answers.
vg        Visual Genome's question_answers.json: [{"id": picture, "qas": [{"qa_id", "question", "answer"}]}]; pictures
          are <id>.jpg, in image_folder itself, its VG_100K or its VG_100K_2.
ocrvqa    dataset.json: {"0000913154": {"imageURL", "questions": [...], "answers": [...], "title", "genre", "split"}};
          split 1, 2, 3 is train, val, test; the cover is <key> with the ending of its address. One sample per question.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.datasets.annotations import kind_of
from chatbridge.datasets.formats.entries import Entry, Fields, Format, Options, Wrong, entry
from chatbridge.datasets.formats.json_items import Item, json_items, section

OCR_SPLITS = {"1": "train", "2": "val", "3": "test"}


def gqa(options: Options) -> Iterator[Entry]:
    """One entry per question, in the order of the file."""
    for item in _keyed(options, "question id"):
        yield entry(item, partial(_gqa, item, options.full_answers))


def _gqa(item: Item, full: bool) -> dict[str, Any]:
    fields = Fields(item.value)
    types = fields.record.get("types")
    return {
        "_id": str(item.key),
        "_media": [f"{fields.name('imageId')}.jpg"],
        "question": fields.text("question"),
        "_answers": fields.answers("fullAnswer" if full else "answer"),
        **({key: types[key] for key in ("structural", "semantic") if key in types} if isinstance(types, dict) else {}),
    }


def vg(options: Options) -> Iterator[Entry]:
    """One entry per question of every picture."""
    for item in section(options.annotations, ""):
        try:
            fields = Fields(item.value) if item.fault is None else None
            asked = fields.items("qas") if fields else [None]
            picture = fields.name("id", "image_id") if fields and asked else ""
        except Wrong as error:
            yield Entry(item.place, {}, str(error))
            continue
        for number, value in enumerate(asked):
            yield entry(item, partial(_vg, value, picture), f", question {number}")


def _vg(value: Any, picture: str) -> dict[str, Any]:
    fields = Fields(value)
    return {
        "_id": fields.name("qa_id"),
        "_media": [f"{folder}{picture}.jpg" for folder in ("", "VG_100K/", "VG_100K_2/")],
        "question": fields.text("question"),
        "_answers": fields.answers("answer"),
    }


def ocrvqa(options: Options) -> Iterator[Entry]:
    """One entry per question of every cover."""
    for item in _keyed(options, "picture id"):
        try:
            fields = Fields(item.value)
            questions, answers = fields.items("questions"), fields.record.get("answers") or []
            if answers and len(answers) != len(questions):
                raise Wrong(f"has {len(questions)} questions and {len(answers)} answers")
            cover = _cover(str(item.key), fields)
        except Wrong as error:
            yield Entry(item.place, {}, str(error))
            continue
        for number, question in enumerate(questions):
            answer = answers[number] if answers else None
            record = {"_id": f"{item.key}_{number}", **cover}
            yield entry(item, partial(_asked, record, question, answer), f", question {number}")


def _cover(key: str, fields: Fields) -> dict[str, Any]:
    split = fields.name("split")
    if split not in OCR_SPLITS:
        raise Wrong(f"'split' is {split}, expected 1 (train), 2 (val) or 3 (test)")
    ending = PurePosixPath("".join(fields.texts("imageURL"))).suffix or ".jpg"
    return {"_media": [key + ending], "split": OCR_SPLITS[split], **fields.kept("genre")}


def _asked(record: dict[str, Any], question: Any, answer: Any) -> dict[str, Any]:
    fields = Fields({"question": question, "answer": answer})
    return {**record, "question": fields.text("question"), "_answers": fields.answers("answer")}


def _keyed(options: Options, what: str) -> Iterator[Item]:
    """Items of an object from ids to records."""
    seen: set[str] = set()
    for item in json_items(options.annotations):
        if isinstance(item.key, int) or item.section or not isinstance(item.value, dict):
            found = "a list" if isinstance(item.key, int) else f"{kind_of(item.value)} under {item.key!r}"
            raise DataError(f"{options.annotations}: expected an object from {what} to a record, found {found}")
        yield item if item.key not in seen else item._replace(fault=f"the {what} {item.key} is there twice")
        seen.add(item.key)


SCENE_FORMATS = {
    "gqa": Format(gqa, ("full_answers", "unanswered")),
    "vg": Format(vg, ("unanswered",)),
    "ocrvqa": Format(ocrvqa, ("split", "unanswered")),
}
