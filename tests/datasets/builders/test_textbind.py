"""TextBind's records: images of both sides at their markers, captions of drawn ones, and faulty records."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Text, assistant, media_parts, user
from chatbridge.datasets.builders import BUILDERS, Dataset
from chatbridge.tasks import question_of
from tests.helpers.tiny_media import write_json


def turn(role: str, content: str, images: tuple[str, ...] = (), captions: tuple[str, ...] = ()) -> dict[str, Any]:
    named = {"image_list": list(images), "caption_list": list(captions), "url_list": [f"https://a/{i}" for i in images]}
    return {"role": role, "content": content, **named}


DIALOGUE = {
    "image_dir": "mim_images",
    "conversation": [
        turn("user", "Compare <image> and\n<image>.", ("1.png", "2.png"), ("of the user", "is not used")),
        turn("assistant", "Like this: <image><image> Enjoy.", ("3.png", "4.png"), ("a red kite", "a blue kite")),
        turn("user", "One more?"),
        turn("assistant", "<image>", ("5.png",), ("a <kite>",)),
    ],
}
OPEN = {**DIALOGUE, "conversation": [*DIALOGUE["conversation"], turn("user", "And <image>?", ("6.png",))]}


def opened(folder: Path, *records: Any, **settings: Any) -> Dataset:
    for name in ("mim_images", "others"):
        (folder / name).mkdir(exist_ok=True)
    builder: Any = BUILDERS.get("textbind")
    node = {"annotations": str(write_json(folder / "train.json", list(records))), "root": str(folder), **settings}
    return builder(parse(builder.Config, node), "made")


def read(source: Dataset, index: int = 0) -> Conversation:
    return source.record(index, np.random.default_rng(0)).conversation


def test_images_are_at_their_markers(tmp_path: Path):
    """fails when an image takes another one's marker, text beside a marker changes, or a caption moves"""
    source = opened(tmp_path, DIALOGUE)
    files = [tmp_path / f"mim_images/{number}.png" for number in range(6)]
    dialogue = {"in_dialogue": True}
    drawn = Drawing("a red kite", files[3]), Drawing("a blue kite", files[4])
    assert read(source) == (
        user("Compare ", Media("image", files[1]), " and\n", Media("image", files[2]), "."),
        Message("assistant", (Text("Like this: "), *drawn, Text(" Enjoy.")), **dialogue),
        user("One more?"),
        Message("assistant", (Drawing("a <kite>", files[5]),), **dialogue),
    )
    assert source.has_drawings and source.modalities == {"image"} and source.untrainable() is None
    assert source.sample_id(0) == "train.json, record 0" and source.note() is None
    assert read(pickle.loads(pickle.dumps(source))) == read(source)


def test_a_last_question_is_left_out_and_counted(tmp_path: Path):
    """fails when training sees a question without an answer, or its removal is silent"""
    source = opened(tmp_path, OPEN, DIALOGUE, {"conversation": [turn("user", "Hi")]})
    assert len(source) == 2 and read(source, 0) == read(source, 1)
    assert source.note() == "last questions without an answer, left out: 1"
    kept = opened(tmp_path, OPEN, {"conversation": [turn("user", "Hi")]}, unanswered="keep")
    last = user("And ", Media("image", tmp_path / "mim_images/6.png"), "?")
    assert read(kept)[-2:] == (last, Message("assistant", (Text(""),), supervised=False))
    assert question_of(read(kept))[0][-1] == last
    assert str(kept.note()).startswith("records without an answer, for evaluation prompts only: 1")
    assert read(kept, 1)[0] == user("Hi")


def test_prompts_need_no_captions(tmp_path: Path):
    """fails when the history of a prompt cannot show an image whose caption is unknown"""
    bare = copy.deepcopy(OPEN)
    bare["conversation"][1]["caption_list"] = None
    bare["conversation"][3].pop("caption_list")
    source = opened(tmp_path, bare, unanswered="keep")
    shown = read(source)
    assert [Path(str(item.ref)).name for item in media_parts(shown)] == [f"{number}.png" for number in range(1, 7)]
    assert not source.has_drawings and shown[3].parts == (Media("image", tmp_path / "mim_images/5.png"),)
    with pytest.raises(DataError, match=r"record 0: turn 1: its 2 images and 0 captions in 'caption_list' differ"):
        opened(tmp_path, bare)
    with pytest.raises(MediaError, match="neither text nor images"):
        read(opened(tmp_path, {"conversation": [turn("user", " ")]}, unanswered="keep"))


def test_the_folder_of_the_images(tmp_path: Path):
    """fails when a record without image_dir takes another folder, or a folder that is missing fails every sample"""
    bare = {"conversation": DIALOGUE["conversation"]}
    source = opened(tmp_path, bare, DIALOGUE, image_folder=str(tmp_path / "others"))
    folders = [{Path(str(item.ref)).parent.name for item in media_parts(read(source, index))} for index in range(2)]
    assert folders == [{"others"}, {"mim_images"}]
    with pytest.raises(DataError, match=r"record 0: has images and no 'image_dir'; set image_folder"):
        opened(tmp_path, bare)
    with pytest.raises(DataError, match=r"do not exist: .*lost \(2 records\); set root .*textbind download"):
        opened(tmp_path, {**bare, "image_dir": "lost"}, {**bare, "image_dir": "lost"}, DIALOGUE)
    with pytest.raises(DataError, match=r"do not exist: .*xxx \(1 records\)") as caught:
        opened(tmp_path, {**bare, "image_dir": "x" * 10_000})
    assert len(str(caught.value)) < 1000
    with pytest.raises(ConfigError, match=r"image_folder\n +there is no folder"):
        opened(tmp_path, bare, image_folder=str(tmp_path / "absent"))
    text = {"conversation": [turn("user", "Hi"), turn("assistant", "Hello.")]}
    assert opened(tmp_path, text).modalities == frozenset() and read(opened(tmp_path, text))[0] == user("Hi")


FAULTS = {  # (turn, key) -> value, and the message
    "fewer markers": ((0, "content"), "no image", r"turn 0: its text has 0 <image> and 'image_list' 2 names"),
    "more markers": ((3, "content"), "<image> <image>", r"turn 3: its text has 2 <image> and 'image_list' 1 name"),
    "fewer captions": ((1, "caption_list"), ["a"], r"turn 1: its 2 images and 1 caption in 'caption_list' differ"),
    "more captions": ((3, "caption_list"), ["a", "b"], r"turn 3: its 1 image and 2 captions in 'caption_list' differ"),
    "empty caption": ((1, "caption_list"), ["a", " "], r"turn 1: caption 1 is empty; give the text"),
    "no text": ((1, "caption_list"), [3, "a"], r"turn 1: caption 0 is the number 3, expected text"),
    "no name": ((0, "image_list"), ["1.png", None], r"turn 0: 'image_list' has null at 1"),
    "no list": ((0, "image_list"), "1.png", r"turn 0: 'image_list' is the text '1.png', expected a list"),
    "order": ((1, "role"), "user", r"turn 1 is the user's, expected the assistant's"),
    "late system": ((2, "role"), "system", r"turn 2 is the system's, expected the user's"),
    "role": ((0, "role"), "usr", r"turn 0: 'role' is 'usr', expected system, user, assistant; is it 'user'\?"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_record_that_cannot_be_used(name: str, tmp_path: Path):
    """fails when a wrong record shifts images in silence, or the message lacks its place and the numbers"""
    (number, key), value, message = FAULTS[name]
    broken = copy.deepcopy(DIALOGUE)
    broken["conversation"][number][key] = value
    with pytest.raises(DataError, match=f"record 1: {message}"):
        opened(tmp_path, DIALOGUE, broken)
    source = opened(tmp_path, DIALOGUE, broken, "no record", faulty="skip")
    assert len(source) == 1 and (note := source.note()) is not None
    assert note.startswith("records left out: 2 (record 1: turn") and "record 2: expected an object" in note
    with pytest.raises(DataError, match=f"2 records cannot be used\n    record 0: {message}"):
        opened(tmp_path, broken, broken, faulty="skip")


def test_misspelled_lists_and_empty_records(tmp_path: Path):
    """fails when a list under another name counts as absent, or a record without turns is a sample"""
    spelled = json.loads(json.dumps(DIALOGUE).replace("image_list", "image_lists"))
    with pytest.raises(DataError, match="turn 0: has no 'image_list'; found 'image_lists'"):
        opened(tmp_path, spelled)
    for turns, message in (([], "no turns"), ([turn("system", "Be brief.")], "all turns are the system's")):
        with pytest.raises(DataError, match=message):
            opened(tmp_path, {"conversation": turns})
    system = {**DIALOGUE, "conversation": [turn("system", "Like <image>", ("1.png",)), *DIALOGUE["conversation"]]}
    first = read(opened(tmp_path, system))[0]
    assert first == Message("system", (Text("Like "), Media("image", tmp_path / "mim_images/1.png")))
    unsaid = {
        "conversation": [turn("user", "Hi"), turn("assistant", "Hello."), turn("user", "?"), turn("assistant", "")]
    }
    assert read(opened(tmp_path, unsaid))[1] == Message("assistant", assistant("Hello.").parts, in_dialogue=True)
    assert len(read(opened(tmp_path, unsaid))) == 4
