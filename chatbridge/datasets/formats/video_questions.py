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
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.file_kind import refuse_other_kind
from chatbridge.datasets.formats.entries import Entry, Fields, Format, Options, Wrong, answer_of, entries
from chatbridge.datasets.formats.json_items import section
from chatbridge.datasets.formats.vqa import with_options

SLOT = re.compile(r"<[A-Za-z]+>")


def msrvttqa(options: Options) -> Iterator[Entry]:
    return entries(section(options.annotations, ""), partial(_numbered, names=lambda number: [f"video{number}"]))


def msvdqa(options: Options) -> Iterator[Entry]:
    mapping = {} if options.mapping is None else _read_mapping(options.mapping)

    def names(number: int) -> list[str]:
        if options.mapping is None:
            return [f"vid{number}", f"video{number}"]
        if f"vid{number}" not in mapping:
            raise Wrong(f"video_id {number} is not in {options.mapping.name}")
        return [mapping[f"vid{number}"], f"vid{number}"]

    return entries(section(options.annotations, ""), partial(_numbered, names=names))


def _numbered(value: Any, names: Any) -> dict[str, Any]:
    fields = Fields(value)
    return {
        "_id": fields.name("id"),
        "_media": names(fields.number("video_id")),
        "question": fields.text("question"),
        "_answers": fields.answers("answer"),
        **fields.kept("category_id"),
    }


def _read_mapping(path: Path) -> dict[str, str]:
    """vid7 -> the name of its file"""
    mapping: dict[str, str] = {}
    try:
        refuse_other_kind(path)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or not re.fullmatch(r"vid\d+", words[1]):
            raise DataError(f"{path}: line {number}: expected a name and vid<number>, got {line[:60]!r}")
        mapping[words[1]] = words[0]
    return mapping


def avqa(options: Options) -> Iterator[Entry]:
    """Both layouts, told apart by the name of the question's field."""
    return entries(section(options.annotations, ""), partial(_avqa, with_choices=options.choices))


def _avqa(value: Any, with_choices: bool) -> dict[str, Any]:
    fields = Fields(value)
    if "question_text" in fields.record:
        return _vggsound(fields, with_choices)
    kinds = _listed(fields, "type")
    return {
        "_id": fields.name("question_id"),
        "_media": [fields.name("video_id")],
        "question": filled(fields.text("question_content"), _listed(fields, "templ_values")),
        "_answers": fields.answers("anser", "answer"),
        **dict(zip(("modality", "kind"), kinds)),
    }


def _vggsound(fields: Fields, with_choices: bool) -> dict[str, Any]:
    question, answers = with_options(
        fields.text("question_text"), fields.answers("multi_choice"), fields.record.get("answer")
    )
    return {
        "_id": fields.name("id"),
        "_media": [fields.name(fields.first("video_name", "video_id"))],
        "question": question if with_choices else fields.text("question_text"),
        "_answers": answers,
        **fields.kept("question_relation", "question_type"),
    }


def filled(question: str, values: list[str]) -> str:
    """The question with its slots (<Object>, <LR>, ...) replaced by these values in order."""
    slots = SLOT.findall(question)
    if len(slots) != len(values):
        raise Wrong(f"the question {question!r} has {len(slots)} slots and 'templ_values' has {len(values)}")
    parts = iter(values)
    return SLOT.sub(lambda _: next(parts), question)


def _listed(fields: Fields, name: str) -> list[str]:
    """A list of texts, as it is or written as JSON in a text; [] when it is absent."""
    value = fields.record.get(name, [])
    if isinstance(value, str):
        try:
            value = json.loads(value or "[]")
        except ValueError:
            raise Wrong(f"{name!r} is no list in JSON: {value[:60]!r}") from None
    texts = [answer_of(item) for item in value] if isinstance(value, list) else [None]
    if None in texts:
        raise Wrong(f"{name!r} is no list of texts")
    return [text for text in texts if text is not None]


VIDEO_QUESTION_FORMATS = {
    "msrvttqa": Format(msrvttqa, ("unanswered",)),
    "msvdqa": Format(msvdqa, ("mapping", "unanswered")),
    "avqa": Format(avqa, ("choices", "unanswered")),
}
