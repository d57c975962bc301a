"""Questions about videos.

msrvttqa   train_qa.json, val_qa.json, test_qa.json: [{"id", "video_id": 7, "question", "answer", "category_id"}]; the
           video is video7.mp4, or the folder video7 of frames.
msvdqa     the same layout; the video is the 7th of MSVD. `mapping`: youtube_mapping.txt, lines such as
           "-4wsuPCjDBc_5_15 vid7", gives the names of the published .avi files; without it the video is vid7 or video7.
avqa       MUSIC-AVQA's avqa-train.json: [{"video_id": "00000272", "question_id", "type": "[\\"Audio\\",
           \\"Counting\\"]", "question_content": "Is the <Object> louder?", "templ_values": "[\\"guzheng\\"]", "anser"}]
           (spelled so); and AVQA's train_qa.json: [{"id", "video_name", "question_text", "multi_choice": four,
           "answer": 2, "question_relation", "question_type"}]. `choices: true` asks the latter with its four choices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.datasets.formats.csv_rows import file_text
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, answer_of
from chatbridge.datasets.formats.records import Format, Parsed, QuestionRecord, each
from chatbridge.datasets.formats.vqa import with_options

ASKS = ("what", "who", "how", "when", "where")  # first words by which results on MSVD-QA and MSRVTT-QA are split
SLOT = re.compile(r"<[A-Za-z]+>")


def _msrvttqa(fields: Fields) -> QuestionRecord:
    return _numbered(fields, lambda number: (f"video{number}",))


def msvdqa(annotations: Path, mapping: Path | None = None) -> Iterator[Parsed[QuestionRecord]]:
    """One record per question. raises DataError for another kind of mapping"""
    files = {} if mapping is None else read_mapping(mapping)

    def names(number: int) -> tuple[str, ...]:
        if mapping is None:
            return f"vid{number}", f"video{number}"
        if f"vid{number}" not in files:
            raise BadRecord(f"video_id {number} is not in {mapping.name}")
        return files[f"vid{number}"], f"vid{number}"

    return each(_numbered, "")(annotations, names=names)


def _numbered(fields: Fields, names: Callable[[int], tuple[str, ...]]) -> QuestionRecord:
    question = fields.text("question")
    first = "".join(question.split()[:1]).lower()
    return QuestionRecord(
        id=fields.name("id"),
        names=names(fields.number("video_id")),
        questions=((question, fields.answers("answer")),),
        details={**fields.kept("category_id", "video_id"), "asks": first if first in ASKS else "other"},
    )


def read_mapping(path: Path) -> dict[str, str]:
    """youtube_mapping.txt of MSVD: vid7 -> the name of its file."""
    mapping: dict[str, str] = {}
    for number, line in enumerate(file_text(path).splitlines(), start=1):
        names = line.split()
        if not names:
            continue
        if len(names) != 2 or not re.fullmatch(r"vid\d+", names[1]):
            raise DataError(f"{path}: line {number}: expected a name and vid<number>, got {line[:60]!r}")
        if mapping.setdefault(names[1], names[0]) != names[0]:
            raise DataError(f"{path}: line {number}: {names[1]} is {names[0]}, and {mapping[names[1]]} before")
    return mapping


def _avqa(fields: Fields, choices: bool = False) -> QuestionRecord:
    """Both layouts, distinguished by the name of the question's field."""
    if "question_text" in fields.record:
        return _vggsound(fields, choices)
    kinds = _json_texts(fields, "type")
    question = filled(fields.text("question_content"), _json_texts(fields, "templ_values"))
    return QuestionRecord(
        id=fields.name("question_id"),
        names=(fields.name("video_id"),),
        questions=((question, fields.answers("anser", "answer")),),
        details={
            **dict(zip(("modality", "kind"), kinds)),
            **({"type": " ".join(kinds)} if kinds else {}),
            **fields.kept("video_id"),
        },
    )


def _vggsound(fields: Fields, with_choices: bool) -> QuestionRecord:
    question = fields.text("question_text")
    with_four, answers = with_options(question, fields.numbered_answers("multi_choice"), fields.record.get("answer"))
    return QuestionRecord(
        id=fields.name("id"),
        names=(fields.name(fields.first("video_name", "video_id")),),
        questions=((with_four if with_choices else question, answers),),
        details=fields.kept("question_relation", "question_type"),
    )


def filled(question: str, values: list[str]) -> str:
    """The question with its slots (<Object>, <LR>, ...) replaced by these values in order.

    raises   BadRecord for another number of them
    """
    slots = SLOT.findall(question)
    if len(slots) != len(values):
        raise BadRecord(f"the question {question!r} has {len(slots)} slots and 'templ_values' has {len(values)}")
    parts = iter(values)
    return SLOT.sub(lambda _: next(parts), question)


def _json_texts(fields: Fields, name: str) -> list[str]:
    """A list of texts, as it is or as JSON in a text; [] when it is absent."""
    value = fields.record.get(name, [])
    if isinstance(value, str):
        try:
            value = json.loads(value or "[]")
        except ValueError:
            raise BadRecord(f"{name!r} is not a JSON list: {value[:60]!r}") from None
    texts = [answer_of(item) for item in value] if isinstance(value, list) else [None]
    if None in texts:
        raise BadRecord(f"{name!r} is not a list of texts")
    return [text for text in texts if text is not None]


msrvttqa = each(_msrvttqa, "")
VIDEO_QUESTION_FORMATS = {
    "msrvttqa": Format(msrvttqa),
    "msvdqa": Format(msvdqa, ("mapping",)),
    "avqa": Format(each(_avqa, ""), ("choices",)),
}
