"""The project's own JSONL format: every mistake is named with its line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common import seeds
from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Drawing, Media, Message, Text, assistant, user
from chatbridge.datasets.builders.records import Records
from tests.helpers.tiny_media import write_json

GOOD = {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]}


def opened(folder: Path, records: list[Any], **options: Any) -> Records:
    file = write_json(folder / "mine.jsonl", records)
    return Records(parse(Records.Config, {"file": str(file), **options}), "mine")


def first(source: Records) -> Any:
    return source.record(0, seeds.stream(0, "test"))


def test_any_number_of_typed_parts_in_any_turn(tmp_path: Path):
    """fails when parts are reordered or merged, a later turn loses its media, or `supervised` is ignored"""
    record = {
        "id": "k7",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Compare "},
                    {"type": "video", "path": "clips/7.mp4"},
                    {"type": "audio", "path": "clips/7.wav"},
                    {"type": "text", "text": " please."},
                ],
            },
            {"role": "assistant", "content": [{"type": "drawing", "caption": "a pan"}], "supervised": False},
            {"role": "user", "content": [{"type": "image", "path": "b.png"}]},
            {"role": "assistant", "content": "Onions."},
        ],
        "answers": ["onions", "fried onions"],
    }
    source = opened(tmp_path, [record, GOOD])
    assert source.references(0) == ("onions", "fried onions") and source.references(1) == ("Hello.",)
    found = first(source)
    assert found.conversation == (
        Message("system", (Text("Be brief."),)),
        user(
            "Compare ", Media("video", tmp_path / "clips/7.mp4"), Media("audio", tmp_path / "clips/7.wav"), " please."
        ),
        Message("assistant", (Drawing("a pan"),), supervised=False),
        user(Media("image", tmp_path / "b.png")),
        assistant("Onions."),
    )
    assert found.id == source.sample_id(0) == "k7" and found.references == ("onions", "fried onions")
    assert source.modalities == {"video", "audio", "image"}


def test_root_and_default_ids(tmp_path: Path):
    """fails when media paths are relative to the working folder, or a line without an id cannot be named"""
    record = {"messages": [{"role": "user", "content": [{"type": "image", "path": "a.jpg"}]}, GOOD["messages"][1]]}
    source = opened(tmp_path, [GOOD, record])
    assert source.sample_id(1) == "mine.jsonl#1"
    root = tmp_path / "media"
    root.mkdir()
    moved = opened(tmp_path, [record], root=str(root))
    assert first(moved).conversation[0].media[0].ref == root / "a.jpg"


def edited(path: str, value: Any) -> Any:
    """GOOD with one place changed: "messages.0.role"; the value `...` removes it."""
    record = json.loads(json.dumps(GOOD))
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = record
    for step in way:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return record


@pytest.mark.parametrize(
    "record, message",
    [
        (edited("mesages", []), "the key 'mesages' is not known; did you mean 'messages'"),
        (edited("messages", ...), "has no 'messages'"),
        (edited("messages", "hello"), "'messages' is the text 'hello', expected a list of turns"),
        (edited("messages", []), "nothing is supervised"),
        (edited("messages.1", ...), "nothing is supervised"),
        (edited("messages.1.content", "  "), "nothing is supervised"),
        (edited("messages.1.supervised", "no"), "message 1: 'supervised' is neither true nor false"),
        (edited("messages.0.role", "human"), "message 0: 'role' cannot be 'human'; allowed: system, user, assistant"),
        (edited("messages.1.role", "asistant"), "message 1: .*did you mean 'assistant'"),
        (edited("messages.0.role", ["user"]), "message 0: 'role' cannot be"),
        (edited("messages.0.text", "x"), "message 0: the key 'text' is not known"),
        (edited("messages.0.content", 5), "message 0: 'content' is the number 5"),
        (
            edited("messages.0.content", ["hi"]),
            "message 0: part 0: expected an object with a 'type', got the text 'hi'",
        ),
        (edited("messages.0.content", [{"type": "imagee", "path": "x"}]), "part 0: 'type' cannot be 'imagee'.*'image'"),
        (edited("messages.0.content", [{"type": ["image"]}]), "part 0: 'type' cannot be"),
        (edited("messages.0.content", [{"type": "image", "file": "x"}]), "part 0: the key 'file' is not known"),
        (edited("messages.0.content", [{"type": "image"}]), "part 0: has no 'path'"),
        (edited("messages.0.content", [{"type": "image", "path": None}]), "part 0: 'path' is null, expected text"),
        (edited("messages.0.content", [{"type": "drawing", "caption": "x"}]), "only the assistant draws"),
        (edited("messages.1.content", [{"type": "drawing", "caption": " "}]), "part 0: 'caption' is empty"),
        (edited("messages.1.content", [{"type": "drawing", "caption": "x", "path": ""}]), "part 0: 'path' is empty"),
        (edited("id", {}), "'id' is neither text nor a number"),
        (edited("answers", "x"), "'answers' is not a list of texts or numbers"),
        (edited("answers", [True]), "'answers' is not a list of texts or numbers"),
        (["x"], "expected an object with fields, got a list"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, record: Any, message: str):
    """fails when a mistake is accepted, or is reported without its line and place"""
    with pytest.raises(DataError, match=f"mine.jsonl: 1 record cannot be used\n    line 2: .*{message}"):
        opened(tmp_path, [GOOD, record])


def test_ids_and_answers_that_are_numbers(tmp_path: Path):
    """fails when a number is refused as an id or answer, or two samples have one id"""
    source = opened(tmp_path, [{**GOOD, "id": 7, "answers": [3, 2.5, "three"]}, {**GOOD, "id": "7"}, GOOD])
    assert first(source).references == ("3", "2.5", "three")
    assert [source.sample_id(k) for k in range(3)] == ["7", "7#2", "mine.jsonl#2"]


def test_a_prompt_without_a_question_is_not_answered(tmp_path: Path):
    """fails when a blank question without files is answered as if it asked something, or a picture needs words"""
    asked = [{"id": name, "messages": [{"role": "user", "content": content}]}
             for name, content in (("blank", " "), ("image", [{"type": "image", "path": "a.jpg"}]))]  # fmt: skip
    source = opened(tmp_path, asked, unanswered="keep")
    with pytest.raises(MediaError, match="neither text nor files"):
        first(source)
    (tmp_path / "a.jpg").touch()
    assert len(source.record(1, seeds.stream(0, "test")).conversation) == 2


def test_missing_files_are_problems(tmp_path: Path):
    """fails when a missing file is found only after the model was built"""
    with pytest.raises(ConfigError) as caught:
        parse(Records.Config, {"file": str(tmp_path / "no.jsonl"), "root": str(tmp_path / "none")})
    assert [problem.path for problem in caught.value.problems] == ["file", "root"]


def test_limit_and_pickling(tmp_path: Path):
    """fails when limit is ignored or a source cannot be sent to a worker"""
    source = pickle.loads(pickle.dumps(opened(tmp_path, [GOOD] * 4, limit=3)))
    assert len(source) == 3 and first(source).conversation == (user("Hello?"), assistant("Hello."))


def test_rejected_answers_are_left_out_and_counted(tmp_path: Path):
    """fails when an answer that was voted down is trained on or ends the run, when `generate` does not ask its question
    again, or when it counts as a reference"""
    rejected = {**edited("messages.1.supervised", False), "id": "no"}
    file = write_json(tmp_path / "votes.jsonl", [rejected, {**GOOD, "id": "yes"}])
    source = Records(Records.Config(file=file), "votes")
    assert len(source) == 1 and source.sample_id(0) == "yes" and "1 lines are left out" in str(source.note())
    asked = Records(Records.Config(file=file, unanswered="keep"), "votes")
    assert len(asked) == 2 and asked.references(0) == () and asked.references(1)
    write_json(file, [rejected])
    with pytest.raises(DataError, match="nothing is supervised: every line has `supervised: false`"):
        Records(Records.Config(file=file), "votes")


def test_a_placeholder_that_a_person_wrote_is_text(tmp_path: Path):
    """fails when a saved chat whose question has the text <image> cannot be trained on, or other data is unchecked"""
    rng = seeds.stream(0, "test")
    asked = {"role": "user", "content": "what does <image> mean ?"}
    answer = {"role": "assistant", "content": "a tag"}
    records = [{"messages": [{**asked, "plain": True}, answer]}, {"messages": [asked, answer]}]
    source = Records(Records.Config(file=write_json(tmp_path / "tags.jsonl", records)), "tags")
    assert source.record(0, rng).conversation[0].text == "what does <image> mean ?"
    with pytest.raises(MediaError, match="its text has 1 <image> marker"):
        source.record(1, rng)
