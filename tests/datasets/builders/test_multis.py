"""Captions, questions and dialogues in MULTIS's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common import seeds
from chatbridge.common.errors import DataError, MediaError
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Media, Message, Text, assistant, user
from chatbridge.conversation.templates import build_template
from chatbridge.datasets.builders import BUILDERS, Record
from chatbridge.datasets.builders._prompts import published_prompts, read_prompts
from tests.helpers.tiny_media import jpeg, write_json

TURNS = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A bus."}]
A = {"image_id": "a"}
BUILDER_OF = {"det": "dialogues", "rea": "dialogues", "conv": "dialogues", "cap": "captions", "ocr": "captions"}


def opened(folder: Path, builder: str, tag: str, records: Any, **options: Any) -> Any:
    """A source whose media files all exist."""
    media = folder / "media"
    media.mkdir(exist_ok=True)
    for record in records if isinstance(records, list) else []:
        name = next((str(record[key]) for key in ("video_id", "image_id", "image") if key in record), "x")
        (media / name).write_bytes(jpeg())
    part = BUILDERS.get(builder)
    annotations = write_json(folder / options.pop("file", "list.json"), records)
    folders = {f"{kind}_folder": str(media) for kind in _kinds(tag)}
    config = parse(part.Config, {"annotations": str(annotations), "tag": tag, **folders, **options})
    return part(config, "multis")


def _kinds(tag: str) -> tuple[str, ...]:
    return {"ti": ("image",), "tv": ("video",), "ta": ("audio",), "tva": ("video", "audio")}.get(tag.split("-")[0], ())


def first(source: Any, counter: int = 0) -> Record:
    return source.record(0, seeds.stream(0, "test", counter))


def reply(text: str) -> Message:
    """An answer of a dialogue."""
    return Message("assistant", (Text(text),), in_dialogue=True)


def one_prompt(folder: Path, tag: str, prompt: str) -> dict[str, str]:
    return {"prompts": str(write_json(folder / "prompts.json", {tag: [prompt]}))}


def golden_cases(reference: Path) -> list[tuple[str, dict, str | None, str]]:
    """(task, annotation, prompt, the reference's string) of both goldens."""
    prompts = read_prompts(published_prompts())
    multis = json.loads((reference / "golden" / "multis_chatbridge.json").read_text())["strings"]
    cases = [
        (c["task"], c["annotation"], prompts.get(c["task"], [None] * 20)[c["prompt_index"]], c["conversation"])
        for c in multis
    ]
    formats = json.loads((reference / "golden" / "chatbridge_conversation_format.json").read_text())["training"]
    return cases + [(c["task"], c["annotation"], c["prompt_template"], c["conversation"]) for c in formats]


def test_records_become_the_strings_of_the_reference(reference: Path, tmp_path: Path):
    """fails when a field, a prompt, a marker, the number of turns or the media of a tag is read differently"""
    template = build_template("vicuna_v0")
    cases = golden_cases(reference)
    assert len(cases) == 22
    for number, (tag, annotation, prompt, expected) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        builder = BUILDER_OF.get(tag.split("-")[1], "questions")
        options = one_prompt(folder, tag, prompt) if prompt is not None else {}
        source = opened(folder, builder, tag, [annotation], **options)
        drawn = {template.render(first(source, counter).conversation) for counter in range(20)}
        assert expected in drawn, (tag, annotation)
        several = [value for key, value in annotation.items() if key != "text" and isinstance(value, list)]
        assert len(drawn) == (len(several[0]) if several and "conversations" not in annotation else 1)


def test_all_published_prompts_serve_their_tag(reference: Path, tmp_path: Path):
    """fails when a prompt is lost, or a tag with prompts cannot be opened"""
    prompts = read_prompts(published_prompts())
    assert prompts == {
        t: tuple(p) for t, p in json.loads((reference / "data" / "multis_task_prompts.json").read_text()).items()
    }
    assert sum(map(len, prompts.values())) == 105
    fields = {"cap": {"caption": "words"}, "ocr": {"text": "words"}, "qa": {"question": "Why", "answer": "words"}}
    for tag in prompts:
        kind = next(kind for kind in fields if tag.endswith(kind))
        folder = tmp_path / tag
        folder.mkdir()
        source = opened(folder, BUILDER_OF.get(kind, "questions"), tag, [{"video_id": "v", **fields[kind]}])
        seen = {first(source, counter).conversation[0].text for counter in range(400)}
        assert seen == {prompt.replace("<QUESTION>", "Why") for prompt in prompts[tag]}


def test_media_come_first_and_follow_the_tag(tmp_path: Path):
    """fails when the audio of a video is left out or precedes the video"""
    source = opened(tmp_path, "dialogues", "tva-conv", [{"video_id": "c", "conversations": TURNS}])
    path = tmp_path / "media" / "c"
    assert first(source).conversation == (
        user(Media("video", path), Media("audio", path), "What is this?"),
        reply("A bus."),
    )
    assert source.modalities == {"video", "audio"}


def test_the_audio_of_a_video_may_be_missing(tmp_path: Path):
    """fails when a video without its audio file does not reach the run's policy for missing audio"""
    (tmp_path / "audio").mkdir()
    record = {"video_id": "c", "conversations": TURNS}
    source = opened(tmp_path, "dialogues", "tva-conv", [record], audio_folder=str(tmp_path / "audio"))
    assert first(source).conversation[0].media[1] == Media("audio", tmp_path / "audio" / "c")
    audio_only = opened(
        tmp_path, "captions", "ta", [{"video_id": "c", "caption": "x"}], audio_folder=str(tmp_path / "audio")
    )
    with pytest.raises(MediaError, match="no audio file for 'c'"):
        first(audio_only)


def test_questions_and_answers_of_lists_stay_together(tmp_path: Path):
    """fails when question and answer are drawn from parallel lists independently"""
    record = {"image_id": 7, "question": ["a?", "b?", "c?"], "answer": ["1", "2", "3"]}
    source = opened(tmp_path, "questions", "ti-qa", [record])
    seen = {(c[0].text, c[1].text) for c in (first(source, k).conversation for k in range(40))}
    assert seen == {("a?", "1"), ("b?", "2"), ("c?", "3")}
    assert source.sample_id(0) == "7"


def test_a_bare_tag_is_the_first_stage(tmp_path: Path):
    """fails when stage-1 captions get a prompt or are not cleaned, or stage-2 captions are cleaned"""
    records = [{"video_id": "a", "desc": "A Dog - runs/jumps"}]
    assert first(opened(tmp_path, "captions", "ti", records)).conversation[0].text == ""
    assert first(opened(tmp_path, "captions", "ti", records)).conversation[1] == assistant("a dog runs jumps")
    assert first(opened(tmp_path, "captions", "ti", records, clean=False)).conversation[1] == assistant(
        "A Dog - runs/jumps"
    )
    assert first(opened(tmp_path, "captions", "ti-cap", records)).conversation[1] == assistant("A Dog - runs/jumps")


def test_dialogues_keep_their_roles(tmp_path: Path):
    """fails when roles are taken from positions, or a question without an answer stays at the end"""
    turns = [{"from": "gpt", "value": "Hello."}, *TURNS, {"from": "human", "value": "And then?"}]
    source = opened(tmp_path, "dialogues", "ti-conv", [{"image": "x.jpg", "conversations": turns}])
    media = Media("image", tmp_path / "media" / "x.jpg")
    assert first(source).conversation == (user(media), reply("Hello."), user("What is this?"), reply("A bus."))


@pytest.mark.parametrize("tag, most", [("ti-conv", 8), ("ti-det", 2), ("ti-rea", 2)])
def test_long_dialogues_are_shortened(tmp_path: Path, tag: str, most: int):
    """fails when more or fewer turns are used than the published runs used"""
    turns = [{"from": ("human", "gpt")[k % 2], "value": f"m{k}"} for k in range(12)]
    messages = first(opened(tmp_path, "dialogues", tag, [{"image": "x.jpg", "conversations": turns}])).conversation
    assert [message.text for message in messages] == [f"m{k}" for k in range(most)]


@pytest.mark.parametrize(
    "builder, tag, record, message",
    [
        ("captions", "ti-cap", {**A, "captoin": "x"}, "has no 'desc' or 'caption'.*did you mean 'caption'"),
        ("captions", "ti-cap", {**A, "caption": []}, "record 1: .*neither text nor a list of texts"),
        ("captions", "ti-cap", {"caption": "x"}, "has no 'video_id' or 'image_id' or 'image'; its fields: 'caption'"),
        ("captions", "ti-cap", {"image_id": " ", "caption": "x"}, "record 1: 'image_id' is empty"),
        ("captions", "ti-cap", "just words", "record 1: expected an object with fields, got the text 'just words'"),
        (
            "questions",
            "ti-qa",
            {**A, "question": ["x", "y"], "answer": ["z"]},
            "record 1: has 2 questions and 1 answers",
        ),
        ("questions", "ti-qa", {**A, "question": "x"}, "record 1: has no 'answer'"),
        ("questions", "ti-qa", {"image_id": ["a"], "question": "x", "answer": "y"}, "'image_id' is neither text nor a"),
        ("dialogues", "ti-det", {**A, "conversations": [{"from": "hunan", "value": "x"}]}, "turn 0: 'from' is 'hunan'"),
        (
            "dialogues",
            "ti-det",
            {**A, "conversations": [{"from": "human", "value": 3}]},
            "turn 0: 'value' is the number",
        ),
        ("dialogues", "ti-det", {**A, "conversations": [{"from": "human", "value": "x"}]}, "no answer among the turns"),
        ("dialogues", "ti-det", {**A, "conversations": "x"}, "'conversations' is the text 'x', expected a list"),
    ],
)
def test_wrong_records_are_named_when_the_source_opens(
    tmp_path: Path, builder: str, tag: str, record: Any, message: str
):
    """fails when a wrong field is found only when the record is drawn, or the message lacks the field or its place"""
    good = {"image_id": "g", "caption": "x", "question": "x", "answer": "y", "conversations": TURNS}
    (tmp_path / "media").mkdir()
    annotations = write_json(tmp_path / "list.json", [good, record])
    part = BUILDERS.get(builder)
    config = parse(part.Config, {"annotations": str(annotations), "tag": tag, "image_folder": str(tmp_path / "media")})
    with pytest.raises(DataError, match=message) as caught:
        part(config, "multis")
    assert "list.json: 1 record cannot be used" in str(caught.value)


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("a.json", '[{"image_id": "a",\n "caption": }]', r"not valid JSON: Expecting value at line 2, column 13"),
        ("a.json", '{"image_id": "a"}', "expected a list of records or 'annotations', found 'image_id'"),
        ("a.json", "[]", "holds no samples"),
        ("a.json", "", "is empty"),
        ("a.jsonl", '{"image_id": "a", "caption": "x"}\n\n{"image_id": ', "line 3: is not valid JSON"),
        ("a.jsonl", "\n", "holds no samples"),
    ],
)
def test_malformed_files_are_refused_with_the_line(tmp_path: Path, file: str, content: str, message: str):
    """fails when a broken annotation file gives a traceback of the JSON module, or an empty one is accepted"""
    (tmp_path / "media").mkdir()
    (tmp_path / file).write_text(content)
    part = BUILDERS.get("captions")
    config = parse(
        part.Config, {"annotations": str(tmp_path / file), "tag": "ti", "image_folder": str(tmp_path / "media")}
    )
    with pytest.raises(DataError, match=message):
        part(config, "multis")


def test_many_wrong_records_are_counted(tmp_path: Path):
    """fails when only the first fault is reported, or a million are"""
    with pytest.raises(DataError, match=r"40 records cannot be used(\n.*){5}\n.*and 35 more") as caught:
        opened(tmp_path, "captions", "ti", [{"image_id": str(i), "text": "x"} for i in range(40)])
    assert len(str(caught.value).splitlines()) == 7


def test_a_missing_file_is_that_samples_failure(tmp_path: Path):
    """fails when one missing file keeps a source from opening, or its id is lost"""
    source = opened(tmp_path, "captions", "ti", [{"image_id": "a", "caption": "x"}, {"image_id": "b", "caption": "  "}])
    (tmp_path / "media" / "a").unlink()
    with pytest.raises(MediaError, match="no image file for 'a'"):
        first(source)
    with pytest.raises(MediaError, match="no answer with text"):
        source.record(1, seeds.stream(0, "test"))
    assert source.sample_id(0) == "a"
