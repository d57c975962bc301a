"""VizWiz, POPE, TextVQA with OCR tokens, OK-VQA and GQA as their evaluations are published."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import ConfigError, DataError
from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS, Dataset
from tests.helpers.mini_questions import (
    GQA,
    OKVQA_ANSWERS,
    OKVQA_QUESTIONS,
    POPE,
    TEXTVQA,
    TEXTVQA_OCR,
    VIZWIZ,
    VIZWIZ_TEST,
    lines,
)
from tests.helpers.miniature import replaced
from tests.helpers.tiny_media import write_json

RNG = np.random.default_rng(0)


def opened(folder: Path, name: str, content: Any, *images: str, **settings: Any) -> Dataset:
    """A source of the builder `questions` with a file and empty images."""
    (folder / "images").mkdir(exist_ok=True)
    for image in images:
        (folder / "images" / image).write_bytes(b"not decoded here")
    path = folder / f"{name}.json"
    path.write_text(lines(content)) if name == "pope" else write_json(path, content)
    part = BUILDERS.get("questions")
    node = {"tag": "ti-qa", "format": name, "annotations": str(path), "image_folder": str(folder / "images")}
    return part(parse(part.Config, {**node, **settings}), name)


def asked(dataset: Dataset, index: int) -> str:
    return dataset.record(index, RNG).conversation[0].text


def test_vizwiz_keeps_ten_answers_and_whether_it_can_be_answered(tmp_path: Path):
    """fails when equal answers are merged, "unanswerable" is left out, or a test split is refused in an evaluation"""
    images = [one["image"] for one in VIZWIZ + VIZWIZ_TEST]
    found = opened(tmp_path, "vizwiz", VIZWIZ, *images)
    first, second = (found.record(number, RNG) for number in range(2))
    assert first.id == "VizWiz_val_00000000" and first.references.count("unanswerable") == 8
    assert len(second.references) == 10 and second.details == {
        "image": "VizWiz_val_00000001.jpg", "answer_type": "other", "answerable": 1
    }  # fmt: skip
    test = opened(tmp_path, "vizwiz", VIZWIZ_TEST, unanswered="keep")
    assert [test.record(number, RNG).references for number in range(2)] == [(), ()]
    assert test.details(0) == {"image": "VizWiz_test_00000000.jpg"}


def test_pope_is_read_line_by_line(tmp_path: Path):
    """fails when the lines in a file that ends in .json are refused, or an image of another release is not found"""
    found = opened(tmp_path, "pope", POPE, "COCO_val2014_000000310196.jpg", "000000210789.jpg")
    records = [found.record(number, RNG) for number in range(3)]
    assert [record.references for record in records] == [("yes",), ("no",), ("no",)]
    assert [record.id for record in records] == ["1", "2", "3"]
    assert asked(found, 0) == "Is there a snowboard in the image?"
    form = {"prompt": "<QUESTION> Please answer yes or no."}
    assert asked(opened(tmp_path, "pope", POPE, **form), 2).endswith("in the image? Please answer yes or no.")


def test_textvqa_with_and_without_the_texts_in_the_image(tmp_path: Path):
    """fails when OCR tokens are lost, follow an image without any, or are used unasked"""
    images = [f"{one['image_id']}.jpg" for one in TEXTVQA["data"]]
    ocr = str(write_json(tmp_path / "ocr.json", TEXTVQA_OCR))
    plain, with_texts = (opened(tmp_path, "textvqa", TEXTVQA, *images, **node) for node in ({}, {"ocr": ocr}))
    assert asked(plain, 0) == "what is the brand of phone?"
    assert asked(with_texts, 0) == "what is the brand of phone?\nReference OCR token: NOKIA, 24-70"
    assert asked(with_texts, 1) == "what does it say?"
    own = opened(tmp_path, "textvqa", TEXTVQA, ocr=ocr, ocr_form=" (texts: {tokens})")
    assert asked(own, 0).endswith("phone? (texts: NOKIA, 24-70)")
    assert len(plain.record(0, RNG).references) == 10
    short = str(write_json(tmp_path / "short.json", {"data": TEXTVQA_OCR["data"][:1]}))
    with pytest.raises(DataError, match="image 0054c91397f2fe05 has no tokens in short.json; are both files"):
        opened(tmp_path, "textvqa", TEXTVQA, ocr=short)
    with pytest.raises(DataError, match=r"has no 'ocr_tokens'.*expected TextVQA_Rosetta_OCR"):
        opened(tmp_path, "textvqa", TEXTVQA, ocr=str(tmp_path / "textvqa.json"))
    with pytest.raises(ConfigError, match=r"ocr_form(?s:.*)has no \{tokens\}"):
        opened(tmp_path, "textvqa", TEXTVQA, ocr=ocr, ocr_form="texts")


def test_okvqa_and_gqa_as_released(tmp_path: Path):
    """fails when the raw answers of OK-VQA replace those that its score compares, or GQA loses a type of question"""
    questions = str(write_json(tmp_path / "questions.json", OKVQA_QUESTIONS))
    names = ("COCO_val2014_000000297147.jpg", "COCO_val2014_000000339761.jpg")
    okvqa = opened(tmp_path, "okvqa", OKVQA_ANSWERS, *names, questions=questions)
    assert okvqa.record(0, RNG).references == ("race",) * 6 + ("bike",) * 4
    gqa = opened(tmp_path, "gqa", GQA, "n161313.jpg", "n235859.jpg")
    assert (gqa.record(0, RNG).id, gqa.record(0, RNG).references) == ("201307251", ("no",))
    assert gqa.details(1) == {"asks": "open", "structural": "query", "semantic": "rel", "imageId": "n235859"}
    assert gqa.details(0)["asks"] == "binary"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("pope", replaced(POPE, (1, "label"), "maybe"), "line 2: 'label' is the text 'maybe', expected yes or no"),
        ("pope", replaced(POPE, (1, "question_id"), 1), "line 2: question_id 1 is defined twice"),
        ("vizwiz", [VIZWIZ[0], VIZWIZ[0]], "record 1: the image VizWiz_val_00000000.jpg is asked about twice"),
        ("vqa", VIZWIZ, "its records fit format: vizwiz; is it the right file"),
        ("vizwiz", TEXTVQA, "expected a list of records or 'annotations', found .*fit format: textvqa"),
        ("gqa", VIZWIZ, "its records fit format: vizwiz"),
    ],
)
def test_a_wrong_annotation_file(name: str, content: Any, message: str, tmp_path: Path):
    """fails when a file of another set is read, or the message does not name the one that fits"""
    with pytest.raises(DataError) as error:
        opened(tmp_path, name, content)
    assert re.search(f"(?s){message}", str(error.value)), error.value
