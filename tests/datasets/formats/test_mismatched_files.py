"""Annotation files that do not belong together, or to the format of their source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import DataError
from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS
from tests.helpers.caption_files import AUDIOCAPS, CAPTION_FILES, CLOTHO, DESCRIPTIONS, MSRVTT
from tests.helpers.dialogue_files import DIALOGUE_FILES
from tests.helpers.miniature import Miniature, prompts, replaced
from tests.helpers.question_files import COCO, QUESTION_FILES, VQA_ANSWERS, VQA_QUESTIONS

MINIATURES = {**QUESTION_FILES, **CAPTION_FILES, **DIALOGUE_FILES}


def test_files_that_do_not_belong_together(tmp_path: Path):
    """fails when files of two splits, a swapped pair, or another layout give an unclear error"""
    other = replaced(VQA_QUESTIONS, ("questions",), VQA_QUESTIONS["questions"][:1])
    for content, message in (
        ({"questions": other}, "1 answers, the first to question_id 393225000, have no question .* of the same split?"),
        ({"questions": VQA_ANSWERS}, "expected 'questions', found 'info', 'annotations'"),
        ({"questions": {"quesions": [{}]}}, "found 'quesions'; is 'quesions' misspelled?"),
    ):
        mixed = Miniature(**{**vars(MINIATURES["vqav2"]), "files": {"a": VQA_ANSWERS, **content}})
        with pytest.raises(DataError, match=message):
            mixed.open(tmp_path)
    unread = replaced(VQA_QUESTIONS, ("questions", 0, "question"), None)
    mixed = Miniature(**{**vars(MINIATURES["vqav2"]), "files": {"a": VQA_ANSWERS, "questions": unread}})
    with pytest.raises(DataError, match="1 record cannot be used\n.*questions, record 0: 'question' is null"):
        mixed.open(tmp_path)
    for name, other in (("gqa", "vg"), ("vg", "gqa"), ("coco", "karpathy"), ("karpathy", "gqa"), ("avsd", "llava")):
        wrong = Miniature(**{**vars(MINIATURES[name]), "files": MINIATURES[other].files})
        with pytest.raises(DataError, match="expected .*found|has no 'filename'|has no 'id'"):
            wrong.open(tmp_path)


@pytest.mark.parametrize(
    "name, given",
    [
        ("gqa", "vg"),
        ("karpathy", "coco"),
        ("aokvqa", "multis"),
        ("dolly", "alpaca"),
        ("clotho", "audiocaps"),
        ("audiocaps", "msvd"),
        ("msvd", "clotho"),
        ("msrvtt", "karpathy"),
        ("coco_gt", "coco"),
    ],
)
def test_a_file_of_another_format_is_recognised(name: str, given: str, tmp_path: Path):
    """fails when two annotation files are swapped in a YAML and the message does not name the format that fits"""
    miniature = MINIATURES[name]
    node = {**miniature.write(tmp_path), **prompts(tmp_path, miniature)}
    for key in {"split", "choices", "full_answers"} & set(node):  # belong to the right format
        del node[key]
    part = BUILDERS.get(miniature.builder)
    with pytest.raises(DataError, match=f"its records fit format: {name}; is it the right file"):
        part(parse(part.Config, {**node, "format": given}), "swapped")
    with pytest.raises(DataError) as caught:
        miniature.open(tmp_path, broken=True, **prompts(tmp_path, miniature))
    assert "fit format" not in str(caught.value)


def test_an_image_with_a_mistake_is_reported_once(tmp_path: Path):
    """fails when the captions of an image without a file name are said to have no image"""
    files = {"captions": {**COCO, "images": [{"id": one["id"]} for one in COCO["images"]]}}
    with pytest.raises(DataError) as error:
        Miniature(**{**vars(MINIATURES["coco"]), "files": files}).open(tmp_path)
    assert "has no 'file_name'" in str(error.value)
    assert "have no entry" not in str(error.value)


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "clotho",
            CLOTHO + CLOTHO.splitlines()[1] + "\n",
            "line 4: 'Santa Motor.wav' is defined twice, first in line 2",
        ),
        ("vatex", [{"videoID": "a", "enCap": ["x"]}] * 2, "record 1: 'a' is defined twice, first in record 0"),
        (
            "msrvtt",
            {**MSRVTT, "videos": MSRVTT["videos"][:1] * 2},
            "videos, record 1: video_id video7010 is defined twice",
        ),
        ("audiocaps", AUDIOCAPS.replace(",20,", ",soon,"), "line 2: 'start_time' is 'soon', expected seconds"),
        ("audiocaps", "", "is empty \\(0 bytes\\)"),
        ("audiocaps", "<!DOCTYPE html><html>", "is a web page"),
        ("audiocaps", AUDIOCAPS.replace("Gusts", "Gu\0ts"), "line 4: has a zero byte, as in a damaged file"),
        ("mosei_list", [{"video_id": "a_1", "sent": 10**400}], "record 0: 'sent' is the number 1"),
        (
            "ocrvqa",
            {"1": {"imageURL": "2.jpg", "questions": ["q"], "answers": 3, "split": 1}},
            "'answers' is the number 3",
        ),
        ("vqa_converted", [{"image": "a.jpg", "question": "?", "answer": [10**400, None]}], "'answer' holds null"),
        ("mosei", "video,score\na,1\n", "expected a column 'label2b' .S3PRL. or 'annotation' .MMSA., found 'video'"),
    ],
)
def test_mistakes_of_tables_and_lists_are_named(name: str, content: Any, message: str, tmp_path: Path):
    """fails when a repeated id gives an item the captions of another, or a download that failed is read"""
    miniature = MINIATURES[name]
    files = {next(iter(miniature.files)): content}
    with pytest.raises(DataError, match=message):
        Miniature(**{**vars(miniature), "files": files}).open(tmp_path, **prompts(tmp_path, miniature))


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("ids.txt", "\n \n", "ids.txt: has no ids"),
        ("ids.json", [["a"]], "record 0: is neither an id nor an object with one"),
        ("ids.csv", "name\na\n", "line 2: has no 'video_id'; its fields: 'name'"),
        ("ids.json", [{"video_id": "gone"}, "gone2.mp4"], "2 ids have no captions here, the first is 'gone'"),
    ],
)
def test_a_wrong_list_of_ids_is_an_error(file: str, content: Any, message: str, tmp_path: Path):
    """fails when a split is scored with fewer items than its list has"""
    miniature = MINIATURES["msvd"]
    files = {"AllVideoDescriptions.txt": DESCRIPTIONS, file: content}
    with pytest.raises(DataError, match=message):
        Miniature(**{**vars(miniature), "files": files}).open(tmp_path, **prompts(tmp_path, miniature))
