"""The question sets in miniature, as a folder `data/` with the files that their YAMLs name."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.mini_questions import (
    AOKVQA,
    AOKVQA_TEST,
    GQA,
    OKVQA_ANSWERS,
    OKVQA_QUESTIONS,
    PID_SPLITS,
    POPE,
    SCIENCEQA,
    TEXTVQA,
    TEXTVQA_OCR,
    VIZWIZ,
    VIZWIZ_TEST,
    lines,
    write_images,
)
from tests.helpers.question_files import VQA_ANSWERS, VQA_QUESTIONS
from tests.helpers.tiny_media import write_json

FILES = {
    "vqav2/v2_OpenEnded_mscoco_val2014_questions.json": VQA_QUESTIONS,
    "vqav2/v2_mscoco_val2014_annotations.json": VQA_ANSWERS,
    "vqav2/v2_OpenEnded_mscoco_test-dev2015_questions.json": {**VQA_QUESTIONS, "data_subtype": "test-dev2015"},
    "okvqa/OpenEnded_mscoco_val2014_questions.json": OKVQA_QUESTIONS,
    "okvqa/mscoco_val2014_annotations.json": OKVQA_ANSWERS,
    "aokvqa/aokvqa_v1p0_val.json": AOKVQA,
    "aokvqa/aokvqa_v1p0_test.json": AOKVQA_TEST,
    "gqa/testdev_balanced_questions.json": GQA,
    "vizwiz/val.json": VIZWIZ,
    "vizwiz/test.json": VIZWIZ_TEST,
    "textvqa/TextVQA_0.5.1_val.json": TEXTVQA,
    "textvqa/TextVQA_Rosetta_OCR_v0.2_val.json": TEXTVQA_OCR,
    "scienceqa/problems.json": SCIENCEQA,
    "scienceqa/pid_splits.json": PID_SPLITS,
    **{f"pope/coco_pope_{name}.json": POPE for name in ("random", "popular", "adversarial")},
}
IMAGES = {
    "multis/coco/images": ["val2014/COCO_val2014_000000262148.jpg", "000000393225.jpg", "000000297147.jpg",
                           "000000339761.jpg", "000000461751.jpg", "000000000009.jpg",
                           "COCO_val2014_000000310196.jpg", "000000210789.jpg"],
    "vqav2/test2015": ["COCO_test2015_000000262148.jpg", "COCO_test2015_000000393225.jpg"],
    "gqa/images": ["n161313.jpg", "n235859.jpg"],
    "vizwiz/val": [one["image"] for one in VIZWIZ],
    "vizwiz/test": [one["image"] for one in VIZWIZ_TEST],
    "textvqa/images": [f"{one['image_id']}.jpg" for one in TEXTVQA["data"]],
    "scienceqa/images": ["test/1/image.png"],
}  # fmt: skip


def write_question_sets(folder: Path) -> Path:
    """The folder, which has data/vqav2, data/gqa and so on."""
    for name, content in FILES.items():
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines(content)) if name.startswith("pope") else write_json(path, content)
    for name, files in IMAGES.items():
        write_images(folder / "data" / name, *files)
    return folder
