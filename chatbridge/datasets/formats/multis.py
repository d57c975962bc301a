"""MULTIS's own layouts: a list of records, each named after its media file by "video_id", "image_id" or "image".

captions    "desc" or "caption": text or list of texts; for the task ocr, "text", of which a list is joined with ", ".
            Also pretrain_txt_mapper.json of the first training stage.
questions   "question" and "answer": a text each, or parallel lists of which one pair is asked. Answers may be numbers.
dialogues   "conversations": turns as in formats/dialogues.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from chatbridge.datasets.formats.dialogues import turns_of
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, answer_of, is_empty, kind_of, spelling
from chatbridge.datasets.formats.json_stream import annotation_values
from chatbridge.datasets.formats.records import CaptionRecord, DialogueRecord, Format, Parsed, QuestionRecord, parsed

ID_FIELDS = ("video_id", "image_id", "image")  # in this order; the first two name media of any kind, LLaVA has the last


def captions(annotations: Path, task: str) -> Iterator[Parsed[CaptionRecord]]:
    """The records of a list of captions, or of written texts for the task "ocr"."""
    return parsed(annotation_values(annotations), partial(_caption, is_ocr=task == "ocr"))


def _caption(value: Any, is_ocr: bool) -> CaptionRecord:
    fields, names = Fields(value), ("text",) if is_ocr else ("desc", "caption")
    name = media_name(fields)
    texts = fields.one_or_more(*names)
    return CaptionRecord(
        id=name, names=(name,), captions=(", ".join(texts),) if is_ocr else texts, details=fields.others(*names)
    )


def questions(annotations: Path) -> Iterator[Parsed[QuestionRecord]]:
    """The records of a list of questions."""
    return parsed(annotation_values(annotations), _question)


def _question(value: Any) -> QuestionRecord:
    fields = Fields(value)
    name = media_name(fields)
    asked, answers = fields.one_or_more("question"), fields.one_or_more("answer", read=answer_of)
    if len(asked) != len(answers):
        raise BadRecord(f"has {len(asked)} questions and {len(answers)} answers")
    pairs = tuple((question, (answer,)) for question, answer in zip(asked, answers))
    # the answer stays in the details: results of yes/no questions are grouped by it
    return QuestionRecord(id=name, names=(name,), questions=pairs, details=fields.others("question"))


def dialogues(annotations: Path) -> Iterator[Parsed[DialogueRecord]]:
    """The records of a list of dialogues."""
    return parsed(annotation_values(annotations), _dialogue)


def _dialogue(value: Any) -> DialogueRecord:
    fields = Fields(value)
    name = media_name(fields)
    turns = turns_of(fields, "conversations")
    return DialogueRecord(id=name, names=(name,), turns=turns, details=fields.others("conversations"))


def media_name(fields: Fields) -> str:
    """The first id that is not empty.

    raises   BadRecord for two ids that name different files; "7" and "coco/7.jpg" name the same one
    """
    fields.require(*ID_FIELDS)
    there = [name for name in ID_FIELDS if name in fields.record]
    spelling({name: _stem(fields.record[name]) for name in there}, ID_FIELDS)
    field = next((name for name in there if not is_empty(fields.record[name])), there[0])
    value = fields.record[field]
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadRecord(f"{field!r} is neither text nor a number but {kind_of(value)}")
    if not str(value).strip():
        raise BadRecord(f"{field!r} is empty")
    return str(value)


def _stem(value: Any) -> Any:
    return PurePath(str(value)).stem if isinstance(value, (str, int)) and not isinstance(value, bool) else value


CAPTIONS = Format(CaptionRecord, captions, ("task",), is_multis=True)
QUESTIONS = Format(QuestionRecord, questions, is_multis=True)
DIALOGUES = Format(DialogueRecord, dialogues, is_multis=True)
