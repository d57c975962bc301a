"""Questions about images that only evaluations ask.

vizwiz   val.json: [{"image": "VizWiz_val_00000000.jpg", "question", "answers": [{"answer", "answer_confidence"}, ...
         ten], "answer_type", "answerable": 0 or 1}]. A record has no id: its image names it. Ten annotators may agree
         on "unanswerable". A test split has no answers.
pope     coco_pope_random.json, ..._popular, ..._adversarial, a line each: {"question_id", "image":
         "COCO_val2014_000000310196.jpg", "text": "Is there a snowboard in the image?", "label": "yes" or "no"}.

Sources: vizwiz.org/tasks-and-datasets/vqa; AoiDragon/POPE.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from chatbridge.datasets.formats.coco import coco_names
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, kind_of
from chatbridge.datasets.formats.json_stream import RECORD_LIST, rows, section
from chatbridge.datasets.formats.records import Format, Parsed, QuestionRecord, parsed
from chatbridge.datasets.formats.vqa import SUBSETS, answer_texts

LABELS = ("yes", "no")
NOT_VIZWIZ = (
    "question_id",
    "answer",
    "choices",
    "direct_answers",
)  # fields of other layouts with "image" and "question"


def vizwiz(annotations: Path) -> Iterator[Parsed[QuestionRecord]]:
    """One record per question, in the order of the file."""
    seen: set[str] = set()
    return (parsed(value, _vizwiz, seen) for value in section(annotations, *RECORD_LIST))


def _vizwiz(fields: Fields, seen: set[str]) -> QuestionRecord:
    image = fields.text("image")
    if image in seen:
        raise BadRecord(f"the image {image} is asked about twice; every record of VizWiz has an image of its own")
    seen.add(image)
    if "answerable" not in fields.record and (strange := [name for name in NOT_VIZWIZ if name in fields.record]):
        raise BadRecord(f"has {strange[0]!r} and no 'answerable', so it is not a record of VizWiz")
    return QuestionRecord(
        id=PurePosixPath(image).stem,
        names=(image,),
        questions=((fields.text("question"), answer_texts(fields)),),
        details={"image": image, **fields.kept("answer_type", "answerable")},
    )


def pope(annotations: Path) -> Iterator[Parsed[QuestionRecord]]:
    """One record per line; its answer is yes or no."""
    seen: set[str] = set()
    return (parsed(value, _pope, seen) for value in rows(annotations))


def _pope(fields: Fields, seen: set[str]) -> QuestionRecord:
    question_id = fields.new_name("question_id", seen)
    label = fields.text("label").strip().lower()
    if label not in LABELS:
        raise BadRecord(f"'label' is {kind_of(fields.record['label'])}, expected yes or no")
    image = fields.text("image")
    return QuestionRecord(
        id=question_id,
        names=_names(image),
        questions=((fields.text("text"), (label,)),),
        details={"image": image, "label": label},
    )


def _names(image: str) -> tuple[str, ...]:
    """Names of an image of COCO in any release; of other sets its own name."""
    number = PurePosixPath(image).stem.rpartition("_")[2]
    if not image.startswith("COCO_") or not number.isdecimal():
        return (image,)
    return tuple(dict.fromkeys((image, *coco_names(int(number), *SUBSETS))))


IMAGE_QUESTION_FORMATS = {"vizwiz": Format(vizwiz), "pope": Format(pope)}
