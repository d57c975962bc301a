"""Choice sets: A-OKVQA and ScienceQA in their published layouts, their prompts, rotations and mistakes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import ConfigError, DataError
from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS, Dataset
from tests.helpers.mini_questions import AOKVQA, AOKVQA_TEST, PID_SPLITS, SCIENCEQA, aokvqa_node, scienceqa_node
from tests.helpers.miniature import replaced

RNG = np.random.default_rng(0)


def opened(node: dict[str, Any]) -> Dataset:
    part = BUILDERS.get("choices")
    return part(parse(part.Config, {key: value for key, value in node.items() if key != "name"}), "set")


def test_aokvqa_is_asked_with_letters(tmp_path: Path):
    """fails when an option loses its letter, the wrong one is correct, or an image of another release is not found"""
    found = opened(aokvqa_node(tmp_path))
    first, second = (found.record(number, RNG) for number in range(len(found)))
    assert (first.id, first.references) == ("22jbM6gDxdaMaunuzgrsBB", ("B",))
    media, text = first.conversation[0].parts
    assert Path(media.ref).name == "000000461751.jpg"
    listed = "A. tea\nB. coffee\nC. paint\nD. sand"
    assert text.text == f"What is in the cup?\n{listed}\nAnswer with the letter of the option."
    assert first.details["options"] == {"A": "tea", "B": "coffee", "C": "paint", "D": "sand"}
    assert (first.details["answer"], first.details["base"], first.details["copy"]) == ("B", first.id, 0)
    assert second.references == ("D",) and second.details["difficult_direct_answer"] is True
    assert Path(second.conversation[0].parts[0].ref).name == "COCO_val2014_000000000009.jpg"


def test_a_test_split_is_asked_and_has_no_reference(tmp_path: Path):
    """fails when a test split is refused in an evaluation, or one of its options becomes its answer"""
    node = aokvqa_node(tmp_path, AOKVQA_TEST)
    with pytest.raises(DataError, match="has no answer; `unanswered: skip`"):
        opened(node)
    found = opened({**node, "unanswered": "keep"})
    assert [found.record(number, RNG).references for number in range(2)] == [(), ()]
    assert found.details(0)["answer"] == "" and len(found.details(0)["options"]) == 4


def test_scienceqa_with_and_without_images(tmp_path: Path):
    """fails when a problem without an image needs one, its hint is lost, or the split of the lists is not used"""
    found = opened(scienceqa_node(tmp_path))
    first, second = (found.record(number, RNG) for number in range(len(found)))
    assert (first.id, second.id) == ("1", "2") and first.references == ("A",)
    assert [part.modality for part in first.conversation[0].parts[:1]] == ["image"]  # pyright: ignore
    assert first.conversation[0].parts[1].text.startswith("Which of these states")  # pyright: ignore
    (text,) = second.conversation[0].parts
    start = "The guide words are broad and bus.\nWould you find the word bitten on this page?\nA. yes\nB. no\n"
    assert text.text.startswith(start)  # pyright: ignore
    assert (first.details["context"], second.details["context"]) == (["image"], ["text"])
    both = {**SCIENCEQA, "1": {**SCIENCEQA["1"], "hint": "See the map."}, "2": {**SCIENCEQA["2"], "hint": ""}}
    shown = opened(scienceqa_node(tmp_path / "both", both))
    assert [shown.details(number)["context"] for number in range(2)] == [["text", "image"], ["none"]]
    assert (first.details["subject"], first.details["grade"]) == ("social science", "grade2")
    assert len(opened(scienceqa_node(tmp_path, images=True))) == 1
    assert len(opened(scienceqa_node(tmp_path, split=["train", "test"]))) == 3
    own = scienceqa_node(tmp_path)
    del own["splits"]
    assert len(opened(own)) == 2
    moved = {**PID_SPLITS, "train": ["1", "3"], "test": ["2"]}  # the lists win over the field
    assert len(opened(scienceqa_node(tmp_path, splits=moved))) == 1


def test_rotations_keep_their_answer_and_a_limit_keeps_them_together(tmp_path: Path):
    """fails when a rotated option loses its letter, ids repeat, or a limit cuts the rotations of a question"""
    found = opened(aokvqa_node(tmp_path, rotate=True))
    records = [found.record(number, RNG) for number in range(len(found))]
    assert len(records) == 8 and len({record.id for record in records}) == 8
    assert [record.id for record in records[:4]] == [
        f"{AOKVQA[0]['question_id']}{end}" for end in ("", "+1", "+2", "+3")
    ]
    for record in records[:4]:
        assert (
            record.details["options"][record.references[0]]
            == "coffee"
            == record.details["options"][record.details["answer"]]
        )
    assert len({tuple(record.details["options"].values()) for record in records[:4]}) == 4
    assert [record.details["copy"] for record in records] == [0, 1, 2, 3] * 2
    assert {found.shared_id(number) for number in range(4)} == {AOKVQA[0]["question_id"]}
    assert [found.references(number) for number in range(8)] == [record.references for record in records]
    assert len(opened(aokvqa_node(tmp_path, rotate=True, limit=1))) == 4
    mixed = opened(scienceqa_node(tmp_path, rotate=True))
    assert [mixed.sample_id(number) for number in range(len(mixed))] == ["1", "1+1", "1+2", "1+3", "2", "2+1"]


def test_forms_of_the_prompt(tmp_path: Path):
    """fails when options cannot be written in another form, or cannot be hidden"""
    form = {"prompt": "Look: <image> <QUESTION> <OPTIONS>", "option_form": "({letter}) {text}", "option_separator": " "}
    parts = opened(aokvqa_node(tmp_path, **form)).record(0, RNG).conversation[0].parts
    assert [getattr(part, "text", "") for part in parts] == [
        "Look:", "", "What is in the cup? (A) tea (B) coffee (C) paint (D) sand"
    ]  # fmt: skip
    hidden = opened(aokvqa_node(tmp_path, prompt="<image> <QUESTION>", option_form="{text}"))
    assert hidden.record(0, RNG).conversation[0].text == "What is in the cup?"


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"prompt": "<QUESTION>"}, "has no <image>, expected it once"),
        ({"prompt": "<image> <audio> <QUESTION>"}, "has <audio>, but `media` is image"),
        ({"prompt": "<image> <QUESTION> <OPTION>"}, "has no field <OPTION>.*\n.*OPTIONS"),
        ({"option_form": "{letter}"}, r"option_form\s+needs \{text\} once"),
        ({"media": ["image", "audio"]}, "audio_folder.*is missing"),
        ({"media": ["images"]}, "'images', which is not looked up"),
        ({"splits": "x.json"}, "splits.*is not used by the format 'aokvqa'; it belongs to: scienceqa"),
    ],
)
def test_settings_that_contradict_each_other(changed: dict[str, Any], message: str, tmp_path: Path):
    """fails when a mistake in a setting is found after the file was read, or not at all"""
    with pytest.raises(ConfigError) as error:
        opened(aokvqa_node(tmp_path, **changed))
    assert re.search(f"(?s){message}", str(error.value)), error.value


@pytest.mark.parametrize(
    "node, message",
    [
        (
            lambda at: aokvqa_node(at, replaced(AOKVQA, (0, "choices"), ["one"])),
            "record 0: 'choices' has 1 option, expec",
        ),
        (
            lambda at: aokvqa_node(at, replaced(AOKVQA, (1, "choices", 2), " ")),
            "record 1: option 2 of 'choices' is empty",
        ),
        (
            lambda at: aokvqa_node(at, replaced(AOKVQA, (0, "correct_choice_idx"), 4)),
            "is the number 4, expected 0 to 3",
        ),
        (lambda at: aokvqa_node(at, [AOKVQA[0], AOKVQA[0]]), "record 1: question_id 22jbM6gDxdaMaunuzgrsBB is defined"),
        (lambda at: aokvqa_node(at, SCIENCEQA), "its records fit format: scienceqa; is it the right file"),
        (lambda at: scienceqa_node(at, AOKVQA), "its records fit format: aokvqa; is it the right file"),
        (lambda at: scienceqa_node(at, splits=["1"]), "expected lists of numbers of problems"),
        (lambda at: scienceqa_node(at, splits={"tests": ["1"]}), "has no list 'test', found tests; is 'tests' meant?"),
        (lambda at: scienceqa_node(at, splits={"test": ["1", "77"]}), "1 problems of .*, the first 77, are not in"),
        (lambda at: scienceqa_node(at, split="tset"), "has no split 'tset'; its splits: .*did you mean 'test'"),
    ],
)
def test_a_wrong_annotation_file(node: Any, message: str, tmp_path: Path):
    """fails when a file of another set, or a record with a mistake, is read, or the message does not name the place"""
    with pytest.raises(DataError) as error:
        opened(node(tmp_path))
    assert re.search(f"(?s){message}", str(error.value)), error.value
