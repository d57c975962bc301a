"""Settings with which the sources of captions, questions, dialogues and instructions read Multimodal-GPT's data."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common import seeds
from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.datasets.builders import Dataset, Record
from chatbridge.datasets.builders._options import distinct
from chatbridge.datasets.builders._prompts import read_prompts
from chatbridge.datasets.formats.vqa import with_options
from chatbridge.experiment.feature_cache.items import source_digest
from tests.helpers.dialogue_files import DIALOGUE_FILES
from tests.helpers.miniature import Miniature
from tests.helpers.question_files import QUESTION_FILES

HEADER = "\n\n### Input:\n"
COUNTS = {"ti-cap": 53, "ti-whyqa": 7, "ti-verify": 19, "ti-entail": 22}  # of the reference


def drawn(source: Dataset, count: int, index: int = 0) -> list[Record]:
    return [source.record(index, seeds.stream(5, "draws", number)) for number in range(count)]


def turns(record: Record) -> list[str]:
    return [message.text for message in record.conversation]


def changed(miniature: Miniature, content: Any, folder: Path, **settings: Any) -> Dataset:
    """The source of a miniature over another content of its file."""
    name = next(iter(miniature.files))
    return Miniature(**{**vars(miniature), "files": {name: content}}).open(folder, **settings)


def test_the_prompts_are_as_many_as_those_of_the_reference():
    """fails when a list of prompts loses or repeats one"""
    table = read_prompts(Path("configs/prompts/mmgpt.json"))
    assert {tag: len(set(prompts)) for tag, prompts in table.items()} == COUNTS


def test_several_answers_become_options(tmp_path: Path):
    """fails when an option is listed twice, one answer is listed as a choice, or the answer is spelled otherwise"""
    vqa, image = QUESTION_FILES["vqa_converted"], "val2014/a.jpg"
    several = [
        {"image": image, "question": "What?", "answer": ["Dog ", "dog", "cat"]},
        {"image": image, "question": "What?", "answer": ["dog", "Dog"]},
    ]
    source = changed(vqa, several, tmp_path, options=0.5, input_header=HEADER)
    found = Counter(turns(record)[0] for record in drawn(source, 200))
    assert set(found) == {"What?", f"What?{HEADER}Dog, cat", f"What?{HEADER}cat, Dog"}
    assert 0.4 < found["What?"] / 200 < 0.6
    always = changed(vqa, several, tmp_path, options=1.0, answer="drawn")
    answers = Counter(turns(record)[1] for record in drawn(always, 100))
    assert set(answers) == {"Dog", "cat"} and "Options: " in turns(drawn(always, 1)[0])[0]
    assert {turns(record)[0] for record in drawn(always, 5, index=1)} == {"What?"}
    assert distinct([" a", "A", "b"]) == ("a", "b")


def test_choices_that_hold_the_answer_twice():
    """fails when a choice is listed twice, or the answer is not among the listed ones"""
    assert with_options("Q?", ("Cab", "bus", "cab"), 2) == ("Q? Choose from: cab, bus.", ("cab",))
    assert with_options("Q?", ("", "cab", "bus"), 1) == ("Q? Choose from: cab, bus.", ("cab",))
    assert with_options("Q?", ("cab", "bus", "bus"), None) == ("Q? Choose from: cab, bus.", ())


def test_an_empty_choice_keeps_its_number(tmp_path: Path):
    """fails when choices after an empty one move up, so that another one counts as correct, or it counts itself"""
    record = {
        "question_id": "a",
        "question": "What?",
        "image_id": 299207,
        "choices": ["", "bus", "van"],
        "split": "train",
    }
    found = changed(QUESTION_FILES["aokvqa"], [{**record, "correct_choice_idx": 1}], tmp_path, choices=True)
    assert found.record(0, seeds.stream(1, "draw")).references == ("bus",)
    with pytest.raises(DataError, match="choice 0, the correct one, is empty"):
        changed(QUESTION_FILES["aokvqa"], [{**record, "correct_choice_idx": 0}], tmp_path, choices=True)


def test_a_question_without_text_is_not_trained(tmp_path: Path):
    """fails when an answer is trained after nothing but an image, a drawn request, or no instruction"""
    empty = [{"image": "val2014/a.jpg", "question": " ", "answer": ["x"]}]
    bare = [{"instruction": "", "input": "", "output": "x"}]
    for source in (changed(QUESTION_FILES["vqa_converted"], empty, tmp_path),
                   changed(DIALOGUE_FILES["alpaca"], bare, tmp_path, preamble=True)):  # fmt: skip
        with pytest.raises(MediaError, match="a question without text"):
            drawn(source, 1)


def test_explanations_and_choices_exclude_each_other(tmp_path: Path):
    """fails when a setting has no effect and nothing says so"""
    aokvqa = QUESTION_FILES["aokvqa_explained"]
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"choices": True}, "explain contradicts choices: true"),
        ({"options": 0.5}, "options has no effect: explain: true leaves one answer"),
        ({"tag": "ti-whyqa"}, "has no prompts for the tag 'ti-whyqa'"),
    )
    for settings, message in cases:
        with pytest.raises(ConfigError) as caught:
            aokvqa.open(tmp_path, **settings)
        assert message in " ".join(str(caught.value).split())


def test_a_file_of_another_layout_is_named(tmp_path: Path):
    """fails when A-OKVQA is read as questions without answers, or suggested for a file with a mistake"""
    aokvqa, vqa = QUESTION_FILES["aokvqa_explained"], QUESTION_FILES["vqa_converted"]
    record = next(iter(aokvqa.files.values()))[0]
    with pytest.raises(DataError, match="A-OKVQA; set format: aokvqa"):
        changed(vqa, [record], tmp_path, unanswered="keep")
    with pytest.raises(DataError, match="expected 0 to 3") as caught:
        changed(aokvqa, [{**record, "correct_choice_idx": 4}], tmp_path)
    assert "its records fit" not in str(caught.value)


def test_a_cover_asks_one_of_its_questions(tmp_path: Path):
    """fails when only one pair is used, or questions get the answers of others"""
    source = QUESTION_FILES["ocrvqa_list"].open(tmp_path)
    assert {tuple(turns(record)) for record in drawn(source, 30)} == {
        ("Who wrote this book?", "A. Author"), ("What is the title?", "The Car")
    }  # fmt: skip


def test_one_annotation_per_image(tmp_path: Path):
    """fails when an image comes twice, or the choice ignores limit_seed"""
    records = [{"image": f"{n % 5}.jpg", "question": f"q{n}", "answer": ["a"]} for n in range(60)]
    vqa = QUESTION_FILES["vqa_converted"]
    for number in range(5):
        (tmp_path / "media").mkdir(exist_ok=True)
        (tmp_path / "media" / f"{number}.jpg").write_bytes(b"x")
    chosen = []
    for seed in (0, 0, 1, None):
        source = changed(vqa, records, tmp_path, sample_image=True, limit_seed=seed)
        asked = [turns(drawn(source, 1, index)[0])[0] for index in range(len(source))]
        assert len(source) == 5 and {int(text[1:]) % 5 for text in asked} == set(range(5))
        assert asked == sorted(asked, key=lambda text: int(text[1:]))
        chosen.append(asked)
    assert chosen[0] == chosen[1] != chosen[2] and chosen[3] == [f"q{n}" for n in range(5)]
    assert len(changed(vqa, records, tmp_path, sample_image=True, limit=3)) == 3


def test_settings_of_texts_leave_a_feature_cache_complete(tmp_path: Path):
    """fails when a setting that changes texts alone, or a new one at its default, makes a complete cache incomplete"""
    vqa = QUESTION_FILES["vqa_converted"]
    content = next(iter(vqa.files.values()))
    plain, listed, single = (
        changed(vqa, content, tmp_path, **settings) for settings in ({}, {"options": 0.5}, {"sample_image": True})
    )
    os.utime(tmp_path / "vqa.json", (1, 1))
    digests = [source_digest(one, 1) for one in (plain, listed, single)]
    assert digests[0] == digests[1] != digests[2]


def test_line_breaks_and_the_published_pairing(tmp_path: Path):
    """fails when line breaks of answers are deleted, the error of the reference is the default, or is not reproduced"""
    llava = DIALOGUE_FILES["llava"]
    said = ["What is\nit?\n<image>", "It is\na dog.", "What color?", "White.", "Big?", "No."]
    spoken = [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(said)]
    talk = [{"id": "1", "image": "a.jpg", "conversations": spoken}]
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.jpg").write_bytes(b"x")
    plain = drawn(changed(llava, talk, tmp_path), 1)[0]
    assert turns(plain) == ["What is\nit?", "It is\na dog.", "What color?", "White.", "Big?", "No."]
    source = changed(llava, talk, tmp_path, line_breaks="remove", pairing="overlapping")
    assert turns(drawn(source, 1)[0]) == [
        "What isit?", "It is\na dog.", "It isa dog.", "What color?", "What color?", "White."
    ]  # fmt: skip
    first = changed(llava, talk, tmp_path, line_breaks="remove", max_turns=2)
    assert turns(drawn(first, 1)[0]) == ["What isit?", "It is\na dog."]
    baize = DIALOGUE_FILES["baize"]
    text = "Header\n[|Human|] a\nb\n[|AI|] c\nd\n[|Human|] "
    assert turns(drawn(changed(baize, [{"topic": "t", "input": text}], tmp_path, line_breaks="remove"), 1)[0]) == [
        "ab", "cd"
    ]  # fmt: skip


def test_the_input_of_an_instruction_has_a_header(tmp_path: Path):
    """fails when the header is not written, or stands without an input"""
    records = [{"instruction": "Sum up.", "input": "One.", "output": "x"},
               {"instruction": "Hi.", "input": "", "output": "y"}]  # fmt: skip
    source = changed(DIALOGUE_FILES["alpaca"], records, tmp_path, input_header=HEADER, preamble=False)
    assert turns(drawn(source, 1)[0])[0] == "Sum up.\n\n### Input:\nOne." and turns(drawn(source, 1, 1)[0])[0] == "Hi."
    plain = changed(DIALOGUE_FILES["alpaca"], records, tmp_path, preamble=False)
    assert turns(drawn(plain, 1)[0])[0] == "Sum up.\n\nOne."
    dolly = [{"instruction": "Sum up.", "context": "One.", "response": "x", "category": "c"}]
    found = changed(DIALOGUE_FILES["dolly"], dolly, tmp_path, input_header=HEADER)
    assert turns(drawn(found, 1)[0])[0] == "Sum up.\n\n### Input:\nOne."
