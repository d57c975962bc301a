"""Questions with options about images.

aokvqa     aokvqa_v1p0_val.json: [{"question_id", "image_id", "question", "choices": four, "correct_choice_idx",
           "difficult_direct_answer"}]. A test split has no "correct_choice_idx".
scienceqa  problems.json: {"1": {"question", "choices": two to five, "answer": 0, "hint", "image": "image.png" or null,
           "subject", "topic", "grade", "split", ...}}; the image is <split>/<number>/image.png. `splits` is
           pid_splits.json, {"train": ["1", ...], "val", "test", "minival", ...}, whose split is used; without it the
           field "split" of a problem counts. `images: true` leaves out the problems without an image.

Sources: allenai/aokvqa; lupantech/ScienceQA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError, nearest
from chatbridge.datasets.formats.coco import coco_names
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, kind_of
from chatbridge.datasets.formats.json_stream import RECORD_LIST, json_values, section
from chatbridge.datasets.formats.records import ChoiceRecord, Format, Parsed, parsed
from chatbridge.datasets.formats.vqa import SUBSETS

MOST_OPTIONS = 26  # letters
YOUNGER = 6  # last grade of the first group


def options_of(fields: Fields, *names: str) -> tuple[str, ...]:
    """Two to 26 texts, none of them empty; equal ones are counted when they are scored. raises BadRecord"""
    options = tuple(text.strip() for text in fields.numbered_answers(*names))
    if not 2 <= len(options) <= MOST_OPTIONS:
        raise BadRecord(f"{names[0]!r} has {len(options)} option{'s' * (len(options) != 1)}, expected 2 to 26")
    if "" in options:
        raise BadRecord(f"option {options.index('')} of {names[0]!r} is empty")
    return options


def number_of(value: Any, options: tuple[str, ...], name: str) -> int | None:
    """The number of the correct option, counted from 0; None where the file has none. raises BadRecord"""
    if value is None or (type(value) is int and 0 <= value < len(options)):
        return value
    raise BadRecord(f"{name!r} is {kind_of(value)}, expected 0 to {len(options) - 1}")


def aokvqa(annotations: Path) -> Iterator[Parsed[ChoiceRecord]]:
    """One record per question, in the order of the file."""
    seen: set[str] = set()
    return (parsed(value, _aokvqa, seen) for value in section(annotations, *RECORD_LIST))


def _aokvqa(fields: Fields, seen: set[str]) -> ChoiceRecord:
    question_id = fields.new_name("question_id", seen)
    options = options_of(fields, "choices")
    image = fields.files("image")
    return ChoiceRecord(
        id=question_id,
        names=(*image, *coco_names(fields.number("image_id"), *SUBSETS)),
        question=fields.text("question"),
        options=options,
        answer=number_of(fields.record.get("correct_choice_idx"), options, "correct_choice_idx"),
        details=fields.kept("split", "difficult_direct_answer", "image_id"),
    )


def scienceqa(annotations: Path, splits: Path | None = None, images: bool = False) -> Iterator[Parsed[ChoiceRecord]]:
    """One record per problem, in the order of the file. raises DataError for another layout"""
    by_split = {} if splits is None else _split_lists(splits)
    split_of = {number: split for split in ("train", "val", "test") for number in by_split.get(split, ())}
    seen: set[str] = set()
    for value in json_values(annotations):
        number = str(value.key)
        if isinstance(value.key, int) or not isinstance(value.value, dict):
            found = "a list" if isinstance(value.key, int) else kind_of(value.value)
            raise DataError(f"{annotations}: expected an object from number to problem, found {found} at {value.place}")
        fault = f"problem {number} is defined twice" if number in seen else None
        seen.add(number)
        one = parsed(value._replace(fault=fault), _scienceqa, number, split_of.get(number))
        if not images or one.record is None or one.record.files is None:
            yield one
    absent = sorted(split_of.keys() - seen)
    if absent:
        fault = f"{len(absent)} problems of {splits}, the first {absent[0]}, are not in {annotations.name}"
        yield Parsed("splits", None, fault)


def _scienceqa(fields: Fields, number: str, split: str | None) -> ChoiceRecord:
    options = options_of(fields, "choices")
    own = split or fields.text("split")
    image = "".join(fields.files("image"))
    hint = "".join(fields.texts("hint"))
    kept = fields.kept("subject", "topic", "category", "skill", "grade", "task")
    return ChoiceRecord(
        id=number,
        names=(f"{own}/{number}/{image}", f"{number}/{image}") if image else (),
        files=None if image else {},
        question=fields.text("question"),
        options=options,
        answer=number_of(fields.record.get("answer"), options, "answer"),
        hint=hint.strip(),
        details={**kept, **_grades(kept), "split": own, "context": _context(bool(hint.strip()), bool(image))},
    )


def _grades(kept: Mapping[str, Any]) -> dict[str, str]:
    """The group of grades that the official table distinguishes."""
    grade = str(kept.get("grade", "")).removeprefix("grade")
    return {"grades": "1-6" if int(grade) <= YOUNGER else "7-12"} if grade.isdecimal() else {}


def _context(has_text: bool, has_image: bool) -> list[str]:
    """The columns TXT, IMG and NO of the official table: a problem with text and an image counts in two of them."""
    return ["text"] * has_text + ["image"] * has_image or ["none"]


def _split_lists(path: Path) -> dict[str, list[str]]:
    """pid_splits.json. raises DataError for another file"""
    found: dict[str, list[str]] = {}
    for value in json_values(path):
        if not value.section or not isinstance(value.value, (str, int)):
            raise DataError(f"{path}: expected lists of numbers of problems (pid_splits.json), found {value.place}")
        found.setdefault(value.section, []).append(str(value.value))
    if "test" not in found:
        guess = nearest("test", found)
        there = ", ".join(found) or "nothing"
        raise DataError(f"{path}: has no list 'test', found {there}{f'; is {guess!r} meant?' if guess else ''}")
    return found


CHOICE_FORMATS = {
    "aokvqa": Format(aokvqa, has_splits=True),
    "scienceqa": Format(scienceqa, ("splits", "images"), has_splits=True),
}
