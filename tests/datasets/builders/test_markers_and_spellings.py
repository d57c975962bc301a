"""Contradictions and wrong types in a record: markers and files, spellings of one field, JSON values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common import seeds
from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Media, Message, Text, assistant, user
from chatbridge.conversation.text_cleaning import find_markers, without_markers
from chatbridge.datasets.builders import BUILDERS, Dataset
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from tests.helpers.tiny_media import layout, write_json

ENDINGS = {"image": "jpg", "video": "mp4", "audio": "wav"}
TAGS = {"image": "ti", "video": "tv", "audio": "ta"}


def opened(folder: Path, builder: str, records: list[Any], **options: Any) -> Dataset:
    part: Any = BUILDERS.get(builder)
    key = "file" if builder == "records" else "annotations"
    return part(parse(part.Config, {key: str(write_json(folder / "a.json", records)), **options}), "mine")


def dialogues(folder: Path, *records: dict[str, Any], kind: str = "image") -> Dataset:
    """A source in LLaVA's layout; the files 1 to 3 exist."""
    for number in (1, 2, 3):
        (folder / f"{number}.{ENDINGS[kind]}").write_bytes(b"x")
    options = {"format": "llava", "tag": f"{TAGS[kind]}-conv", f"{kind}_folder": str(folder)}
    return opened(folder, "dialogues", list(records), **options)


def asked(*values: str, **fields: Any) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(values)]
    return {**fields, "conversations": turns}


def parts(source: Dataset, index: int = 0) -> list[list[str]]:
    """Of every turn of the user: its texts, and media by the names of their files."""
    found = source.record(index, seeds.stream(0, "test")).conversation
    return [[part.text if isinstance(part, Text) else Path(part.ref).name for part in turn.parts]  # pyright: ignore
            for turn in found if turn.role == "user"]  # fmt: skip


@pytest.mark.parametrize("kind", ENDINGS)
@pytest.mark.parametrize(
    "text, left",
    [
        ("<{}>Who are they?", "Who are they?"),
        ("Explain this<{}>", "Explain this"),
        ("<{}> What is it?", "What is it?"),
        ("<{}>\nWhat is it?", "What is it?"),
        ("Why is it wet?\n<{}>", "Why is it wet?"),
        ("Describe <{}> in short.", "Describe in short."),
        ("Describe <{}>.", "Describe."),
    ],
)
def test_a_marker_counts_with_and_without_line_breaks(kind: str, text: str, left: str, tmp_path: Path):
    """fails when a literal marker is trained on beside its file, or the text around it is joined without a blank"""
    source = dialogues(tmp_path, asked(text.format(kind), "A.", **{kind: f"1.{ENDINGS[kind]}"}), kind=kind)
    assert parts(source) == [[f"1.{ENDINGS[kind]}", left]]


def test_several_files_are_put_at_their_markers(tmp_path: Path):
    """fails when images inside the text move to the front, or a later turn loses its own"""
    source = dialogues(
        tmp_path,
        asked("Compare <image> with <image>.", "Same.", images=["1.jpg", "2.jpg"]),
        asked("Hello", "Hi.", "<image>And this?", "A dog.", image="3.jpg"),
        asked("What are these?", "Dogs.", images=["1.jpg", "2.jpg"]),
    )
    assert parts(source, 0) == [["Compare ", "1.jpg", " with ", "2.jpg", "."]]
    assert parts(source, 1) == [["Hello"], ["3.jpg", "And this?"]]
    assert parts(source, 2) == [["1.jpg", "2.jpg", "What are these?"]]


def test_a_single_file_is_put_at_its_marker_on_request(tmp_path: Path):
    """fails when `single: marker` moves an image to the front, or changes records without a marker or with several"""
    records = (
        asked("What is this?\n<image>", "A dog.", image="1.jpg"),
        asked("<image>\nWhat is this?", "A dog.", "Why?", "It barks.", image="1.jpg"),
        asked("No marker.", "A dog.", image="1.jpg"),
        asked("<image>, then <image>?", "A dog.", images=["1.jpg", "2.jpg"]),
    )
    expected = [
        [["What is this?", "1.jpg"]],
        [["1.jpg", "What is this?"], ["Why?"]],
        [["1.jpg", "No marker."]],
        [["1.jpg", ", then ", "2.jpg", "?"]],
    ]
    options = {"format": "llava", "tag": "ti-conv", "image_folder": str(tmp_path)}
    for number in (1, 2):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    source = opened(tmp_path, "dialogues", list(records), **options, single="marker")
    assert [parts(source, index) for index in range(len(records))] == expected
    with pytest.raises(ConfigError, match="is not used by the format 'multis'; it belongs to: llava, sharegpt"):
        opened(tmp_path, "dialogues", list(records), **{**options, "format": "multis"}, single="marker")


def test_names_without_the_prefix_of_their_files(tmp_path: Path):
    """fails when LLaVA's names do not find COCO 2014's files, or a file with the plain name is passed over"""
    for name in ("COCO_train2014_01.jpg", "02.jpg", "COCO_train2014_02.jpg", "a/COCO_train2014_03.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    options = {"format": "llava", "tag": "ti-conv", "image_folder": str(tmp_path)}
    records = [asked("Who?", "A.", image=name) for name in ("01.jpg", "02.jpg", "a/03.jpg", "04.jpg")]
    source = opened(tmp_path, "dialogues", records, **options, file_prefix="COCO_train2014_")
    found = [parts(source, index)[0][0] for index in range(3)]
    assert found == ["COCO_train2014_01.jpg", "02.jpg", "COCO_train2014_03.jpg"]
    with pytest.raises(MediaError, match="no image file for '04.jpg' or 'COCO_train2014_04.jpg'"):
        parts(source, 3)
    with pytest.raises(ConfigError, match="'train2014/COCO_', which has a folder; it begins"):
        opened(tmp_path, "dialogues", records, **options, file_prefix="train2014/COCO_")


@pytest.mark.parametrize("kind", ENDINGS)
def test_markers_and_files_that_do_not_agree_are_a_failure(kind: str, tmp_path: Path):
    """fails when a marker without its file, or unequal counts, are trained on, or the message lacks the numbers"""
    marker, one, two = f"<{kind}>", f"1.{ENDINGS[kind]}", f"2.{ENDINGS[kind]}"
    records = {
        f"3 <{kind}> markers and 2 {kind} files": asked(
            f"{marker}\n{marker}\n{marker}?", "A.", **{f"{kind}s": [one, two]}
        ),
        f"1 <{kind}> marker and 2 {kind} files": asked(f"{marker}\nFirst?", "Yes.", **{f"{kind}s": [one, two]}),
        f"1 <{kind}> marker and 0 {kind} files": asked(f"{marker}\nWhat?", "A dog.", **{kind: None}),
        f"2 <{kind}> markers and 1 {kind} file": asked(f"{marker}What?", "A.", f"{marker}Who?", "B.", **{kind: one}),
    }
    source = dialogues(tmp_path, *records.values(), kind=kind)
    for index, message in enumerate(records):
        with pytest.raises(MediaError, match=message):
            parts(source, index)


def test_other_builders_reconcile_too(tmp_path: Path):
    """fails when a question, a prompt, an instruction or a typed message trains on a literal marker"""
    (tmp_path / "1.jpg").write_bytes(b"x")
    folder = {"tag": "ti-qa", "image_folder": str(tmp_path)}
    question = {"image_id": "1", "question": "<image>\nWho?", "answer": "A man"}
    assert parts(opened(tmp_path, "questions", [question], **folder)) == [["1.jpg", "Who?"]]
    twice = {**question, "question": "<image> or <image>?"}
    with pytest.raises(MediaError, match="2 <image> markers and 1 image file"):
        parts(opened(tmp_path, "questions", [twice], **folder))
    prompts = str(write_json(tmp_path / "prompts.json", {"ti-cap": ["<image>\nDescribe it."]}))
    caption = {"image_id": "1", "caption": "A man."}
    source = opened(tmp_path, "captions", [caption], tag="ti-cap", image_folder=str(tmp_path), prompts=prompts)
    assert parts(source) == [["1.jpg", "Describe it."]]
    with pytest.raises(MediaError, match="1 <image> marker and 0 image files.*backticks"):
        parts(opened(tmp_path, "instructions", [asked("<image>\nWho?", "A man.")], format="sharegpt"))
    typed = [{"type": "image", "path": "1.jpg"}, {"type": "text", "text": "<image>Who?"}]
    record = {"messages": [{"role": "user", "content": typed}, {"role": "assistant", "content": "A man."}]}
    with pytest.raises(MediaError, match="message 0: .*1 <image> marker and its parts 1 image file.*remove the marker"):
        parts(opened(tmp_path, "records", [record]))


def test_a_marker_of_multis_means_the_subject_of_the_record(tmp_path: Path):
    """fails when published records that repeat their marker, or have one for a video and its audio, are refused"""
    (tmp_path / "c.mp4").write_bytes(b"x")
    record = asked("<video>\nWho?", "A.", "<video>\nWhere?", "B.", video_id="c")
    folders = {"video_folder": str(tmp_path), "audio_folder": str(tmp_path)}
    source = opened(tmp_path, "dialogues", [record], tag="tva-conv", **folders)
    assert parts(source) == [["c.mp4", "c.mp4", "Who?"], ["Where?"]]


@pytest.mark.parametrize(
    "text",
    [
        "<image>\n  Who?",
        "Why? \n<image>",
        "a\n<image>\nb",
        "\n<image>\n<image>  c",
        "<image>\n<image>\n\nTwo.\n",
        "a <image>\nb",
    ],
)
def test_a_marker_with_its_line_break_takes_nothing_else(text: str):
    """fails when a turn loses more than the reference removes: "<image>\\n", then "\\n<image>" """
    assert without_markers(text) == text.replace("<image>\n", "").replace("\n<image>", "")
    assert without_markers("Explain<image>\nthis") == "Explain this"
    assert without_markers("<image>\nWho?\n<image><image>\n") == "Who?"


def test_markup_is_text(tmp_path: Path):
    """fails when text about HTML is refused, or loses its tags"""
    text = "How do I style `<video>` and <audio>x</audio>? What is an <Image>?"
    assert find_markers(text) == [] and without_markers(text) == text
    assert parts(dialogues(tmp_path, asked(text, "So."))) == [[text]]
    assert parts(opened(tmp_path, "instructions", [asked(text, "So.")], format="sharegpt")) == [[text]]


def test_an_empty_answer_is_not_supervised_and_counted():
    """fails when an empty answer inside a dialogue is supervised, or is not counted"""
    dialogue = (user(Media("image", "a.jpg")), assistant(""), user("and?"), assistant("B."), user("c?"), assistant(" "))
    row = layout("vicuna_v0").training_sequence(dialogue)
    whole = layout("vicuna_v0").training_sequence(
        (user(Media("image", "a.jpg")), Message("assistant", (Text("x"),), False), *dialogue[2:])
    )
    assert row.num_empty == 2 and row.target == whole.target
    assert layout("vicuna_v0").training_sequence(dialogue[:4]).num_empty == 1
    with pytest.raises(ValueError, match="no token of this conversation"):
        layout("vicuna_v0").training_sequence(dialogue[:2])


@pytest.mark.parametrize(
    "fields, files",
    [
        ({"image": None, "images": ["1.jpg", "2.jpg"]}, ["1.jpg", "2.jpg"]),
        ({"image": "", "images": ["1.jpg"]}, ["1.jpg"]),
        ({"image": "1.jpg", "images": []}, ["1.jpg"]),
        ({"images": ["1.jpg"], "image": "1.jpg"}, ["1.jpg"]),
        ({"video": [], "image": 1}, ["1.jpg"]),
        ({"image": None}, []),
    ],
)
def test_of_several_spellings_the_one_that_is_not_empty_counts(fields: Any, files: list[str], tmp_path: Path):
    """fails when `image: null` beside `images: [...]` loses the images"""
    assert parts(dialogues(tmp_path, asked("What?", "A.", **fields))) == [[*files, "What?"]]


def test_two_spellings_that_differ_are_a_failure(tmp_path: Path):
    """fails when one of two values of a field is silently dropped, in any format"""
    differ = "two spellings of one field with different values"
    with pytest.raises(DataError, match=f"record 0: 'image' is .*'1.jpg' and 'images' is a list: {differ}"):
        dialogues(tmp_path, asked("What?", "A.", image="1.jpg", images=["1.jpg", "2.jpg"]))
    folder = {"image_folder": str(tmp_path)}
    with pytest.raises(DataError, match=f"'desc' .* and 'caption' .*{differ}"):
        opened(tmp_path, "captions", [{"image_id": 1, "desc": "a", "caption": "b"}], tag="ti-cap", **folder)
    with pytest.raises(DataError, match=f"'video_id' .* and 'image' .*{differ}"):
        opened(tmp_path, "captions", [{"video_id": "7", "image": "8.jpg", "caption": "b"}], tag="ti-cap", **folder)
    opened(
        tmp_path, "captions", [{"image_id": 7, "image": "x/7.jpg", "desc": "", "caption": "b"}], tag="ti-cap", **folder
    )
    assert Fields({"anser": None, "answer": 0}).answers("anser", "answer") == ("0",)
    assert Fields({"cocoid": 7, "imgid": 0}).first("cocoid", "imgid") == "cocoid"  # two fields, not two spellings
    with pytest.raises(BadRecord, match=differ):
        Fields({"from": "human", "role": "assistant"}).text("from", "role")


@pytest.mark.parametrize("value, named", [({"a": 1}, "an object"), (7, "the number 7"), (None, "null"), (True, "true"),
                                          (["a", 2], "the number 2"), ([], "an empty list")])  # fmt: skip
def test_a_value_that_is_not_text_is_named(value: Any, named: str, tmp_path: Path):
    """fails when str() of a JSON value becomes a caption, a question or text of a dialogue"""
    folder = {"image_folder": str(tmp_path)}
    for builder, record, field, tag in (
        ("captions", {"image_id": 1, "caption": value}, "caption", "ti-cap"),
        ("questions", {"image_id": 1, "question": value, "answer": "a"}, "question", "ti-qa"),
    ):
        with pytest.raises(DataError, match=rf"record 0: .*'{field}'.* is neither text nor a list of texts: .*{named}"):
            opened(tmp_path, builder, [record], tag=tag, **folder)
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": value}]
    for options in ({}, {"format": "sharegpt"}):
        with pytest.raises(DataError, match=f"turn 1: 'value'.* is {'a list' if isinstance(value, list) else named}"):
            opened(tmp_path, "dialogues", [{"image_id": 1, "conversations": turns}], tag="ti-conv", **folder, **options)


def test_answers_may_be_numbers(tmp_path: Path):
    """fails when an answer that a spreadsheet wrote as a number is refused, or 3.0 is not "3" """
    record = {"image_id": 1, "question": ["a?", "b?"], "answer": [3, 2.5]}
    (tmp_path / "1.jpg").write_bytes(b"x")
    source = opened(tmp_path, "questions", [record], tag="ti-qa", image_folder=str(tmp_path))
    drawn = {source.record(0, seeds.stream(0, "test", k)).references[0] for k in range(20)}
    assert drawn == {"3", "2.5"}
    assert Fields(json.loads('{"answer": 3.0}')).answers("answer") == ("3",)
