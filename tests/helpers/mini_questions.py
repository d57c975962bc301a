"""Question sets in miniature, field for field as they are published, with images where a test decodes them."""

from __future__ import annotations

import json
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


def lines(records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def ten(*answers: str) -> list[dict[str, Any]]:
    return [{"answer": answer, "answer_confidence": "yes"} for answer in answers]


VIZWIZ = [
    {"image": "VizWiz_val_00000000.jpg", "question": "Ok. There is another picture I hope it is a better one.",
     "answers": ten(*["unanswerable"] * 8, "unsuitable", "no"), "answer_type": "unanswerable", "answerable": 0},
    {"image": "VizWiz_val_00000001.jpg", "question": "What is this?", "answer_type": "other", "answerable": 1,
     "answers": ten(*["basil leaves"] * 6, *["basil"] * 4)},
]  # fmt: skip
VIZWIZ_TEST = [{"image": one["image"].replace("val", "test"), "question": one["question"]} for one in VIZWIZ]
POPE = [
    {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a snowboard in the image?",
     "label": "yes"},
    {"question_id": 2, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a dining table in the image?",
     "label": "no"},
    {"question_id": 3, "image": "COCO_val2014_000000210789.jpg", "text": "Is there a dog in the image?", "label": "no"},
]  # fmt: skip
TEXTVQA = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": [
    {"question": "what is the brand of phone?", "image_id": "003a8ae2ef43b901", "image_classes": ["Mobile phone"],
     "flickr_original_url": "x", "image_width": 1024, "question_id": 34602, "set_name": "val",
     "question_tokens": ["what"], "answers": ["nokia"] * 9 + ["toshiba"]},
    {"question": "what does it say?", "image_id": "0054c91397f2fe05", "question_id": 34604, "set_name": "val",
     "answers": ["stop"] * 10},
]}  # fmt: skip
TEXTVQA_OCR = {"dataset_version": "0.2", "data": [
    {"image_id": "003a8ae2ef43b901", "ocr_tokens": ["NOKIA", "24-70"], "ocr_info": [{"word": "NOKIA"}]},
    {"image_id": "0054c91397f2fe05", "ocr_tokens": []},
]}  # fmt: skip
OKVQA_QUESTIONS = {"info": {}, "data_type": "mscoco", "data_subtype": "val2014", "questions": [
    {"image_id": 297147, "question": "What sport can you use this for?", "question_id": 2971475},
    {"image_id": 339761, "question": "Name the type of plant this is?", "question_id": 3397615}]}  # fmt: skip
OKVQA_ANSWERS = {"info": {}, "annotations": [
    {"image_id": 297147, "question_id": 2971475, "question_type": "four", "answer_type": "other", "confidence": 3,
     "answers": [{"answer_id": number, "raw_answer": word, "answer_confidence": "yes", "answer": stem}
                 for number, (word, stem) in enumerate([("racing", "race")] * 6 + [("bikes", "bike")] * 4, 1)]},
    {"image_id": 339761, "question_id": 3397615, "question_type": "one", "answer_type": "other", "confidence": 3,
     "answers": [{"answer_id": number, "raw_answer": "vine", "answer_confidence": "yes", "answer": "vine"}
                 for number in range(1, 11)]}]}  # fmt: skip
GQA = {
    "201307251": {"semantic": [], "entailed": [], "equivalent": ["201307251"], "question": "Is it overcast?",
                  "imageId": "n161313", "isBalanced": True, "groups": {"global": None, "local": "10-where"},
                  "answer": "no", "semanticStr": "select: scene", "annotations": {}, "fullAnswer": "No, it is clear.",
                  "types": {"detailed": "weatherVerify", "semantic": "global", "structural": "verify"}},
    "201640614": {"question": "Who is wearing the dress?", "imageId": "n235859", "answer": "woman",
                  "fullAnswer": "The woman is wearing a dress.", "isBalanced": True,
                  "types": {"detailed": "relS", "semantic": "rel", "structural": "query"}},
}  # fmt: skip
