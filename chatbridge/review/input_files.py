"""The input files of a review as LLaVA and ChatBind publish them. Mistakes name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from chatbridge.common.errors import DataError
from chatbridge.common.text_repair import repaired_value
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.json_stream import RECORD_LIST, section

T = TypeVar("T")
MOST_SHOWN = 3  # faults in one message


@dataclass(frozen=True)
class ReviewQuestion:
    """A question.

    id        as in the file: text or a whole number
    media     modality -> name of its file; {} for a text-only question
    category  chooses the rule of the judge and groups the summary
    """

    id: str | int
    text: str
    category: str
    media: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReviewAnswer:
    """An answer to a question; `id` is its own id, that of the question when the file has none."""

    question_id: str | int
    id: str | int
    text: str


@dataclass(frozen=True)
class ImageContext:
    """What the judge reads instead of an image: captions, and boxes x1, y1, x2, y2 between 0 and 1 by category."""

    image: str
    captions: tuple[str, ...]
    boxes: tuple[tuple[str, tuple[float, ...]], ...] = ()


@dataclass(frozen=True)
class Rule:
    """How the judge names the two assistants, and what it is asked to do."""

    role: str
    prompt: str


def read_questions(path: Path) -> list[ReviewQuestion]:
    """Questions in the order of the file: {question_id, text, category, image (optional)}. raises DataError"""
    return _unique(path, "question_id", _read(path, _question), lambda one: one.id)


def read_answers(path: Path) -> list[ReviewAnswer]:
    """Answers in the order of the file: {question_id, text, answer_id (optional)}. raises DataError"""
    return _unique(path, "question_id", _read(path, _answer), lambda one: one.question_id)


def read_contexts(path: Path) -> dict[str, ImageContext]:
    """image -> its description: {image, captions, instances: [{category, bbox}]}; LLaVA-Bench has one `caption` and no
    instances. raises DataError"""
    return {one.image: one for one in _unique(path, "image", _read(path, _context), lambda one: one.image)}


def read_rules(path: Path) -> dict[str, Rule]:
    """category -> rule of a JSON object {category: {role, prompt}}. raises DataError"""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except BadRecord as error:
        raise DataError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON: {error}") from None
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: expected an object of rules, {{category: {{role, prompt}}}}")
    found: dict[str, Rule] = {}
    for category, rule in content.items():
        try:
            found[category] = Rule(Fields(rule).text("role"), Fields(rule).text("prompt"))
        except BadRecord as error:
            raise DataError(f"{path}: rule {category!r}: {error}") from None
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """raises BadRecord for a name that is given twice, of which json keeps the last without a word"""
    names = [name for name, _ in pairs]
    if len(names) > len(set(names)):
        repeated = next(name for name in names if names.count(name) > 1)
        raise BadRecord(f"{repeated!r} is there twice; remove one of them")
    return dict(pairs)


def key_of(value: str | int) -> str:
    """The text by which ids of different files are compared: 7 and "7" are the same id."""
    return str(value)


def _question(fields: Fields) -> ReviewQuestion:
    fields.name("question_id")
    media = {name: fields.text(name) for name in MODALITIES.names() if fields.record.get(name) is not None}
    category = fields.text("category") if "category" in fields.record else "default"
    return ReviewQuestion(fields.get("question_id"), fields.text("text"), category, media)


def _answer(fields: Fields) -> ReviewAnswer:
    name = fields.first("answer_id", "question_id")
    for one in ("question_id", name):
        fields.name(one)
    return ReviewAnswer(fields.get("question_id"), fields.get(name), fields.text("text"))


def _context(fields: Fields) -> ImageContext:
    boxes = fields.items("instances") if "instances" in fields.record else []
    return ImageContext(fields.text("image"), fields.one_or_more("captions", "caption"), tuple(map(_box, boxes)))


def _box(value: Any) -> tuple[str, tuple[float, ...]]:
    fields = Fields(value)
    box = fields.items("bbox")
    if len(box) != 4 or not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in box):
        raise BadRecord(f"'bbox' is {box}, expected four numbers: x1, y1, x2, y2")
    if not all(0 <= one <= 1 for one in box):  # nan too
        raise BadRecord(f"'bbox' is {box}, expected parts of the image between 0 and 1; divide pixels by its size")
    return fields.text("category"), tuple(box)


def _read(path: Path, read: Callable[[Fields], T]) -> list[T]:
    """The records of a file. raises DataError with the first faults, or for a file without records"""
    found: list[T] = []
    faults: list[str] = []
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    for value in section(path, *RECORD_LIST):
        try:
            if value.fault is not None:
                raise BadRecord(value.fault)
            found.append(read(Fields(repaired_value(value.value))))  # no client can send half an emoji
        except BadRecord as error:
            faults.append(f"{value.place}: {error}")
    if faults:
        more = f"; and {len(faults) - MOST_SHOWN} more" if len(faults) > MOST_SHOWN else ""
        raise DataError(f"{path}: {'; '.join(faults[:MOST_SHOWN])}{more}")
    if not found:
        raise DataError(f"{path}: holds no records")
    return found


def _unique(path: Path, name: str, records: list[T], id_of: Callable[[T], str | int]) -> list[T]:
    seen: dict[str, None] = {}
    repeated = [key for one in records if (key := key_of(id_of(one))) in seen or seen.setdefault(key)]
    if repeated:
        listed = ", ".join(dict.fromkeys(repeated[:MOST_SHOWN]))
        raise DataError(f"{path}: {len(repeated)} lines repeat a {name}: {listed}; remove the repeated lines")
    return records
