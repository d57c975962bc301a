"""Questions about audio.

clotho_aqa   clotho_aqa_train.csv, clotho_aqa_val.csv, clotho_aqa_test.csv: file_name, QuestionText, answer, confidence;
             a row per annotator, three of whom answered each question. A record is a question with all its answers.
             `asks` is yes_no where every answer is one of these words, else word; `agreement` is how many of the
             annotators gave the most frequent answer: "2 of 3".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chatbridge.datasets.formats.csv_rows import csv_rows
from chatbridge.datasets.formats.json_fields import Fields
from chatbridge.datasets.formats.records import Format, Parsed, QuestionRecord, parsed
from chatbridge.datasets.formats.vqa import SEVERAL_ANSWERS

BINARY = frozenset({"yes", "no"})


@dataclass
class _Question:
    """The rows of one question so far, and the place of the first."""

    place: str
    answers: list[str] = field(default_factory=list)


def clotho_aqa(annotations: Path) -> Iterator[Parsed[QuestionRecord]]:
    """One record per question of a file, in the order of the first rows; faults come first."""
    questions: dict[tuple[str, str], _Question] = {}
    for value in csv_rows(annotations, "file_name", "QuestionText", "answer"):
        found = parsed(value, _row)
        if found.record is None:
            yield Parsed(found.place, None, found.fault)
            continue
        name, question, answer = found.record
        item = questions.setdefault((name, question), _Question(found.place))
        item.answers += [answer] if answer else []
    for number, ((name, question), item) in enumerate(questions.items()):
        yield Parsed(item.place, _record(f"{Path(name).stem}_{number}", name, question, item.answers))


def _row(fields: Fields) -> tuple[str, str, str]:
    """File, question and answer; annotators differ in case and outer blanks only."""
    return fields.name("file_name"), fields.text("QuestionText").strip(), fields.text("answer").strip().lower()


def _record(name_of_it: str, name: str, question: str, answers: list[str]) -> QuestionRecord:
    most = max(map(answers.count, answers), default=0)
    details = {"asks": "yes_no" if BINARY.issuperset(answers) else "word", "agreement": f"{most} of {len(answers)}"}
    return QuestionRecord(
        id=name_of_it,
        names=(name,),
        questions=((question, tuple(answers)),),
        details={"file_name": name, **(details if answers else {})},
    )


AUDIO_QUESTION_FORMATS = {"clotho_aqa": Format(clotho_aqa, options=SEVERAL_ANSWERS)}
