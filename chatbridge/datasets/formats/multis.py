"""MULTIS's own layouts: a list of records, each named after its media file by "video_id", "image_id" or "image".

captions    "desc" or "caption": text or list of texts; for the task ocr, "text", of which a list is joined with ", ".
            Also pretrain_txt_mapper.json of the first training stage.
questions   "question" and "answer": a text each, or parallel lists of which one pair is asked. Answers may be numbers.
dialogues   "conversations": turns as in formats/dialogues.py.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from chatbridge.datasets.formats.dialogues import turns_of
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, answer_of, is_empty, kind_of, spelling
from chatbridge.datasets.formats.json_stream import RECORD_LIST
from chatbridge.datasets.formats.records import CaptionRecord, DialogueRecord, Format, QuestionRecord, each

ID_FIELDS = ("video_id", "image_id", "image")  # in this order; the first two name media of any kind, LLaVA has the last


def _caption(fields: Fields, task: str) -> CaptionRecord:
    name, names = media_name(fields), ("text",) if task == "ocr" else ("desc", "caption")
    texts = fields.one_or_more(*names)
    captions = (", ".join(texts),) if task == "ocr" else texts
    return CaptionRecord(id=name, names=(name,), captions=captions, details=fields.others(*names))


def _question(fields: Fields) -> QuestionRecord:
    name = media_name(fields)
    asked, answers = fields.one_or_more("question"), fields.one_or_more("answer", read=answer_of)
    if len(asked) != len(answers):
        raise BadRecord(f"has {len(asked)} questions and {len(answers)} answers")
    pairs = tuple((question, (answer,)) for question, answer in zip(asked, answers))
    # the answer stays in the details: results of yes/no questions are grouped by it
    return QuestionRecord(id=name, names=(name,), questions=pairs, details=fields.others("question"))


def _dialogue(fields: Fields) -> DialogueRecord:
    name = media_name(fields)
    turns = turns_of(fields, "conversations")
    return DialogueRecord(id=name, names=(name,), turns=turns, details=fields.others("conversations"))


def media_name(fields: Fields) -> str:
    """The first id that is not empty.

    raises   BadRecord for two ids that name different files; "7" and "coco/7.jpg" name the same one
    """
    fields.require(*ID_FIELDS)
    there = [name for name in ID_FIELDS if name in fields.record]
    if len(there) > 1:
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


CAPTIONS = Format(each(_caption, *RECORD_LIST), ("task",), is_multis=True)
QUESTIONS = Format(each(_question, *RECORD_LIST), is_multis=True)
DIALOGUES = Format(each(_dialogue, *RECORD_LIST), is_multis=True)
