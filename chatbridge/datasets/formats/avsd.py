"""Dialogues about videos of Charades, and the references of DSTC7's test.

avsd        DSTC7's train_set4DSTC7-AVSD.json: {"dialogs": [{"image_id": "7UPGT", "caption", "summary", "dialog":
            [{"question", "answer"}]}]}; `context` puts the caption or summary before the first question. In
            test_set4DSTC7-AVSD.json the last answer is __UNDISCLOSED__.
references  test_set4DSTC7-AVSD_multiref.json with six answers per last question, COCO's layout: {"images": [{"id": 1,
            "name": "7UPGT_9"}], "annotations": [{"image_id": 1, "caption"}]}. The name is the video and the number of
            the round. A file without names has the order of the dialogues and the ids 1, 2, 3 ..., as the official
            script assumes. Or lbl_undisclosedonly_test_set4DSTC7-AVSD.json, {"dialogs": [...]}: the last answer of
            every dialogue is its only reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.datasets.formats.coco import with_captions
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.json_stream import json_values, section
from chatbridge.datasets.formats.records import CaptionRecord, DialogueRecord, Format, Parsed, parsed, rounds

HIDDEN = "__UNDISCLOSED__"


def avsd(
    annotations: Path, context: tuple[str, ...] = (), references: Path | None = None, history: int | None = None
) -> Iterator[Parsed[DialogueRecord]]:
    """A record per dialogue; evaluation asks the last question, with the other rounds before it.

    history   most rounds before the last question; None: all
    """
    with other_file_named(annotations, "images", "is this the file of `references`?"):
        found = [parsed(value, _avsd, context, history) for value in section(annotations, "dialogs")]
    return iter(found) if references is None else _with_references(found, References(references))


@contextmanager
def other_file_named(path: Path, key: str, hint: str) -> Iterator[None]:
    """Add a hint to the DataError of a file that has this key: two files of a YAML are swapped.

    raises   DataError, the same with the hint
    """
    try:
        yield
    except DataError as error:
        if key in str(error).partition("found ")[2]:
            raise DataError(f"{error}; {hint}") from None
        raise


def _avsd(fields: Fields, context: tuple[str, ...], history: int | None) -> DialogueRecord:
    pairs = [(one.text("question"), one.text("answer")) for one in map(Fields, fields.items("dialog"))]
    if not pairs:
        raise BadRecord("'dialog' has no rounds")
    question, answer = pairs[-1]
    pairs[-1] = (question, "" if answer.strip() == HIDDEN else answer)
    num_rounds, pairs = len(pairs), pairs if history is None else pairs[-history - 1 :]
    given = " ".join(text for name in context if (text := fields.text(name).strip()) != HIDDEN)
    if given:
        pairs[0] = (f"{given}\n{pairs[0][0]}", pairs[0][1])
    name = fields.name("image_id")
    return DialogueRecord(id=name, names=(name,), turns=rounds(pairs), details={"rounds": num_rounds})


class References:
    """The answers of a file of references, by the video of their name, or by their position.

    raises   DataError for another layout
    """

    def __init__(self, path: Path):
        self.path = path
        self._by_video: dict[str, dict[str, tuple[str, ...]]] = {}  # video -> number of the round -> answers
        self._in_order: list[tuple[str, ...]] = []
        is_dialogues = any(value.section == "dialogs" for value in json_values(path))
        entries = _last_answers(path) if is_dialogues else with_captions(path, _name)
        for number, one in enumerate(entries, start=1):
            if one.record is None or not one.record.captions:
                raise DataError(f"{path}: {one.place}: {one.fault or 'has no answers'}")
            if not one.record.names and one.record.id != str(number):
                raise DataError(
                    f"{path}: {one.place}: has no 'name', and the id {one.record.id} where {number} follows"
                )
            self._in_order.append(one.record.captions)
            for name in one.record.names:
                video, _, last = name.rpartition("_")
                self._by_video.setdefault(video, {})[last] = one.record.captions
        self.has_names = bool(self._by_video)

    def __len__(self) -> int:
        return len(self._in_order)

    def of(self, record: DialogueRecord, position: int) -> tuple[str, ...]:
        """The answers to the last question of a dialogue. raises BadRecord where none are for it"""
        if not self.has_names:
            return self._in_order[position]
        there = self._by_video.get(record.id, {})
        last = str(record.details["rounds"] - 1)
        number = next(iter(there)) if len(there) == 1 else last
        if number not in there:
            named = f"those of rounds {', '.join(there)}" if there else "none"
            raise BadRecord(f"the last question, round {last}, has no answers in {self.path.name}, which has {named}")
        return there[number]


def _last_answers(path: Path) -> Iterator[Parsed[CaptionRecord]]:
    """The last answers of a file of dialogues, as captions with the name of video and round."""
    return (parsed(value, _last_answer) for value in section(path, "dialogs"))


def _last_answer(fields: Fields) -> CaptionRecord:
    turns = fields.items("dialog")
    answer = Fields(turns[-1]).text("answer").strip() if turns else ""
    if answer == HIDDEN:
        raise BadRecord("its last answer is hidden; is this the file of `annotations`?")
    video = fields.name("image_id")
    return CaptionRecord(id=video, names=(f"{video}_{len(turns) - 1}",), captions=(answer,) if answer else ())


def _name(fields: Fields, _: str) -> tuple[str, ...]:
    """The name of an entry, () without one. raises BadRecord for an image of COCO"""
    if "file_name" in fields.record:
        raise BadRecord("has a 'file_name': captions of images, not the answers of dialogues")
    return (fields.name("name"),) if "name" in fields.record else ()


def _with_references(found: list[Parsed[DialogueRecord]], references: References) -> Iterator[Parsed[DialogueRecord]]:
    """The dialogues with their references, of which the first becomes the answer. raises DataError"""
    if len(references) != len(found):
        raise DataError(
            f"{references.path}: has the answers to {len(references)} questions, and the dialogues are {len(found)}; "
            "are both files of the same split?"
        )
    for position, one in enumerate(found):
        if one.record is None:
            yield one
            continue
        try:
            answers = references.of(one.record, position)
        except BadRecord as error:
            yield Parsed(one.place, None, str(error))
            continue
        turns = (*one.record.turns[:-1], ("assistant", answers[0]))
        yield Parsed(one.place, replace(one.record, turns=turns, references=answers))


AVSD = Format(avsd, ("context", "references", "history"))
