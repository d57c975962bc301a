"""Question sets in miniature, field for field as they are published, with images where a test decodes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.tiny_media import jpeg, write_json

AOKVQA = [
    {"split": "val", "image_id": 461751, "question_id": "22jbM6gDxdaMaunuzgrsBB", "question": "What is in the cup?",
     "choices": ["tea", "coffee", "paint", "sand"], "correct_choice_idx": 1,
     "direct_answers": ["coffee"] * 7 + ["latte", "latte", "milk"], "difficult_direct_answer": False,
     "rationales": ["It is brown.", "There is foam.", "It is a cafe."]},
    {"split": "val", "image_id": 9, "question_id": "2Aq5hEqkRQYvXmaAJwjd9f", "question": "Who made it?",
     "choices": ["bob", "ann", "eve", "tom"], "correct_choice_idx": 3, "direct_answers": ["tom"] * 10,
     "difficult_direct_answer": True, "rationales": ["It is signed.", "See the sign.", "A name is there."]},
]  # fmt: skip
AOKVQA_TEST = [{name: value for name, value in one.items() if name in
                ("image_id", "question_id", "question", "choices", "difficult_direct_answer")} | {"split": "test"}
               for one in AOKVQA]  # fmt: skip
SCIENCEQA = {
    "1": {"question": "Which of these states is farthest north?", "choices": ["West Virginia", "Louisiana", "Arizona",
          "Oklahoma"], "answer": 0, "hint": "", "image": "image.png", "task": "closed choice", "grade": "grade2",
          "subject": "social science", "topic": "geography", "category": "Geography", "skill": "Read a map",
          "lecture": "Maps have four cardinal directions.", "solution": "Look at the top.", "split": "test"},
    "2": {"question": "Would you find the word bitten on this page?", "choices": ["yes", "no"], "answer": 1,
          "hint": "The guide words are broad and bus.", "image": None, "task": "closed choice", "grade": "grade7",
          "subject": "language science", "topic": "reference-skills", "category": "Reference skills",
          "skill": "Use guide words", "lecture": "", "solution": "", "split": "test"},
    "3": {"question": "Is a rock alive?", "choices": ["yes", "no", "both"], "answer": 1, "hint": "", "image": None,
          "task": "true-or false", "grade": "grade1", "subject": "natural science", "topic": "biology",
          "category": "Classification", "skill": "Living things", "lecture": "", "solution": "", "split": "train"},
}  # fmt: skip
PID_SPLITS = {"train": ["3"], "val": [], "test": ["1", "2"], "trainval": ["3"], "minival": [], "minitest": ["2"]}


def write_images(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(40 * number, side=32))
    return folder


def aokvqa_node(folder: Path, records: Any = None, **changed: Any) -> dict[str, Any]:
    """A source of the builder `choices`."""
    images = write_images(folder / "coco", "000000461751.jpg", "COCO_val2014_000000000009.jpg")
    path = write_json(folder / "aokvqa_v1p0_val.json", AOKVQA if records is None else records)
    return {"name": "choices", "format": "aokvqa", "annotations": str(path), "image_folder": str(images), **changed}


def scienceqa_node(folder: Path, problems: Any = None, splits: Any = None, **changed: Any) -> dict[str, Any]:
    images = write_images(folder / "scienceqa", "test/1/image.png")
    path = write_json(folder / "problems.json", SCIENCEQA if problems is None else problems)
    lists = write_json(folder / "pid_splits.json", PID_SPLITS if splits is None else splits)
    return {"name": "choices", "format": "scienceqa", "annotations": str(path), "splits": str(lists), "split": "test",
            "image_folder": str(images), **changed}  # fmt: skip
