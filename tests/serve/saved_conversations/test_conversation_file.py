"""Chats in files: what is saved is what is loaded and trained on, and what others give is not trusted."""

from __future__ import annotations

import json
import threading
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.conversation.messages import Media, Message, Text
from chatbridge.datasets.builders.records import Records
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.saved_conversations.conversation_file import LoadError, SaveError, load, new_id, save, save_zip
from chatbridge.serve.session import ChatTurn, Session, conversation_of
from tests.helpers.serve_parts import ChatWorld


@pytest.fixture(scope="module")
def session(engine: ChatEngine, world: ChatWorld) -> Session:
    """Two turns with an image, and a video with its audio; their answers were typed here, so no model runs."""
    first = ChatTurn(
        "what is <image> ?", (engine.attach(world.files["image"]),), "a tag", True, parts=(Text("a tag"),), num_tokens=3
    )
    video, answer = engine.attach(world.files["video"]), (Text("up"),)
    second = ChatTurn("and now ?", (video,), "up", True, parts=answer, notes=("slow",))
    return first, second


def _plain(messages: tuple[Message, ...]) -> list[Any]:
    """Messages as values that can be compared."""
    return [(message.role, [_part(part) for part in message.parts]) for message in messages]


def _part(part: Any) -> Any:
    if isinstance(part, Media):
        return part.modality, part.ref.tensor.tolist()
    return part.text


@pytest.mark.parametrize("kind", ["jsonl", "zip"])
def test_a_loaded_conversation_is_the_saved_one(engine, session, tmp_path: Path, kind: str):
    """fails when loading changes a turn or an input of an encoder"""
    file = tmp_path / f"talk.{kind}"
    before = ChatTurn("gone ?", problem="too long", before=(Message("system", (Text("be brief"),)),))
    saved = (save_zip if kind == "zip" else save)((before, *session), file, "mine", ["tiny"])
    assert saved.num_turns == 2 and saved.notes == ("1 question without an answer is not in the file",)
    loaded = load(engine, file, folder=tmp_path / "unpacked", is_trusted=kind == "jsonl")
    assert loaded.id == "mine" and loaded.notes == ()
    assert _plain(conversation_of(loaded.session)) == _plain(conversation_of((before, *session)))
    assert [turn.text for turn in loaded.session] == ["what is <image> ?", "and now ?"]
    assert [one.kind for turn in loaded.session for one in turn.attached] == ["image", "video with its audio"]
    assert loaded.session[1].notes == ("slow",) and loaded.session[0].num_tokens == 3


def test_records_trains_on_a_saved_file(engine, session, tmp_path: Path):
    """fails when `records` refuses a saved file, or supervises an answer that was stopped or cut"""
    file = tmp_path / "talks.jsonl"
    save((session[0], replace(session[1], parts=(), answer="half", is_cut=True)), file, "one")
    save((replace(session[0], is_done=False),), file, "two", media="link")
    source = Records(Records.Config(file=file), "talks")
    assert [source.sample_id(index) for index in range(len(source))] == ["one", "two"]
    one, two = (source.record(index, np.random.default_rng(0)).conversation for index in range(2))
    assert [message.is_supervised for message in one] == [False, True, False, False]
    assert two[1].is_supervised  # the only answer
    copied, linked = one[0].parts[0], two[0].parts[0]
    assert isinstance(copied, Media) and isinstance(linked, Media)
    assert Path(copied.ref).parent == tmp_path / "talks.media" and linked.ref == session[0].attached[0].path
    assert Path(copied.ref).read_bytes() == Path(linked.ref).read_bytes()


def test_a_question_in_another_form_stays_as_it_was(engine, world, tmp_path: Path):
    """fails when text between files is moved, or asking again puts them together differently"""
    image = str(world.files["image"])
    content = [{"type": "text", "text": "is"}, {"type": "image", "path": image}, {"type": "text", "text": "red ?"}]
    record = {"messages": [{"role": "user", "content": content}]}
    (tmp_path / "in.jsonl").write_text(json.dumps(record) + "\n")
    loaded = load(engine, tmp_path / "in.jsonl")
    assert "no answer" in loaded.notes[0] and loaded.id == "in#0"
    (turn,) = loaded.session
    assert turn.text == "is red ?" and [type(part) for part in turn.question.parts] == [Text, Media, Text]
    save((replace(turn, answer="yes", parts=(Text("yes"),), is_done=True),), tmp_path / "out.jsonl", "x")
    again = load(engine, tmp_path / "out.jsonl", "x").session[0]
    assert _plain((again.question,)) == _plain((turn.question,))


def test_a_file_holds_any_number_of_conversations(engine, session, tmp_path: Path):
    """fails when threads lose each other's line, an id is repeated, or a number or id loads another conversation"""
    file = tmp_path / "talks.jsonl"
    turns = [replace(session[0], attached=(), answer=str(at), parts=(Text(str(at)),)) for at in range(12)]
    threads = [threading.Thread(target=save, args=((turn,), file, f"c{at % 6}")) for at, turn in enumerate(turns)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    assert sorted(ids) == [f"c{at}" for at in range(6)]
    assert (
        load(engine, file, "2").id == ids[1]
        and load(engine, file, "c4").id == "c4"
        and load(engine, file).id == ids[-1]
    )
    with pytest.raises(LoadError, match="no conversation 'c9', and has numbers 1 to 6; the last one is c"):
        load(engine, file, "c9")
    assert len({new_id() for _ in range(100)}) == 100


def test_what_cannot_be_saved_is_a_message(session, tmp_path: Path):
    """fails when a file of something else is replaced, or a mistake is a traceback"""
    other = tmp_path / "shopping.jsonl"
    other.write_text('{"milk": 2}\n')
    with pytest.raises(SaveError, match="line 1 is not a conversation"):
        save(session, other, "x")
    assert other.read_text() == '{"milk": 2}\n'
    with pytest.raises(SaveError, match="name it talk.jsonl"):
        save(session, tmp_path / "talk.txt", "x")
    with pytest.raises(SaveError, match="nothing to save"):
        save((ChatTurn("?", problem="no"),), tmp_path / "a.jsonl", "x")
    lost = replace(session[0].attached[0], path=tmp_path / "lost.jpg")
    with pytest.raises(SaveError, match="lost.jpg no longer exists"):
        save((replace(session[0], attached=(lost,)),), tmp_path / "a.jsonl", "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="Not a directory"):
        save(session, tmp_path / "file" / "a.jsonl", "x")
    assert not (tmp_path / "a.jsonl").exists()


def _zip(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), text)
    return path


def test_a_file_of_somebody_else_reads_nothing_of_this_machine(engine, world, tmp_path: Path):
    """fails when a path, a link or an archive of a stranger leads to a file of the server, or fills its disk"""

    def line(path: str) -> str:
        parts = [{"type": "image", "path": path}, {"type": "text", "text": "?"}]
        return json.dumps({"messages": [{"role": "user", "content": parts}]})

    image, folder = world.files["image"], tmp_path / "unpacked"
    alone = tmp_path / "alone.jsonl"
    alone.write_text(line(str(image)))
    assert load(engine, alone).session[0].attached  # of the user of this machine
    with pytest.raises(LoadError, match="media that are not in it; load the .zip"):
        load(engine, alone, is_trusted=False)
    for path in (str(image), f"../{image.name}", f"file://{image}", "~/x.jpg"):
        with pytest.raises(LoadError, match="not within the saved conversation|no such file") as caught:
            load(engine, _zip(tmp_path / "z.zip", conversation_dot_jsonl=line(path)), None, folder, is_trusted=False)
        assert str(tmp_path / "unpacked") not in str(caught.value)
    out = zipfile.ZipInfo("../out.txt")
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    for info in (out, link):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            archive.writestr("conversation.jsonl", line("link.jpg"))
            archive.writestr(info, str(image))
        with pytest.raises(LoadError, match="leads out of its folder"):
            load(engine, tmp_path / "bad.zip", None, folder, is_trusted=False)
    with pytest.raises(LoadError, match=r"no conversation\.jsonl"):
        load(engine, _zip(tmp_path / "other.zip", a="b"), None, folder)
    assert list(folder.iterdir()) == []  # what could not be loaded takes no disk


def test_a_bomb_is_refused_before_it_is_unpacked(engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when an archive unpacks to more than the limits allow"""
    monkeypatch.setattr(engine, "limits", replace(engine.limits, max_file_mb=0.1))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversation.jsonl", "{}")
        archive.writestr("media/a.bin", b"\0" * 5_000_000)
    with pytest.raises(LoadError, match="larger than allowed"):
        load(engine, tmp_path / "bomb.zip", None, tmp_path / "unpacked")
    assert list((tmp_path / "unpacked").iterdir()) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "has no conversation"),
        ("[1]", "line 1 is not a conversation"),
        ("{" * 50_000, "line 1 is not a conversation"),
        ('{"messages": []}', "has no question"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}', "message 1: a question"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "message 0: an answer that does not follow"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "drawing", '
            '"caption": "x"}]}]}',
            "answer 1: has a drawing, which the chat template",
        ),
        ('{"messages": [{"role": "usr", "content": "a"}]}', "did you mean 'user'"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "imu", "path": "/etc/hostname"}]}]}',
            "question 1: .*imu",
        ),
    ],
)
def test_mistakes_in_a_file_are_messages(engine, tmp_path: Path, text: str, message: str):
    """fails when a line that is no chat is a traceback, or is loaded as something else"""
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(LoadError, match=message):
        load(engine, tmp_path / "in.jsonl")
    with pytest.raises(LoadError, match=r"there is no file .*did you mean in\.jsonl"):
        load(engine, tmp_path / "inn.jsonl")


def test_odd_bytes_are_read_or_refused(engine, tmp_path: Path):
    """fails when a byte order mark, half an emoji, another encoding or deep nesting ends in a traceback"""
    file, line = tmp_path / "in.jsonl", '{"messages": [{"role": "user", "content": "\\ud83d ?"}]}'
    file.write_bytes(b"\xef\xbb\xbf" + line.encode())
    assert load(engine, file).session[0].text == "\ufffd ?"
    deep = '{"messages": [{"role": "user", "content": "x"}], "details": ' + '{"a": ' * 900 + "1" + "}" * 901
    for content in (line.encode("utf-16"), b"\xff\xfe", deep.encode()):
        file.write_bytes(content)
        with pytest.raises(LoadError, match="line 1 is not a conversation|nested too deeply"):
            load(engine, file)


def test_every_missing_file_is_named(engine, tmp_path: Path):
    """fails when only the first problem of a conversation is reported"""
    turns = [{"role": "user", "content": [{"type": "image", "path": f"{at}.jpg"}]} for at in range(2)]
    answer = {"role": "assistant", "content": "yes"}
    (tmp_path / "in.jsonl").write_text(json.dumps({"messages": [turns[0], answer, turns[1], answer]}))
    with pytest.raises(LoadError, match=r"(?s)question 1: 0\.jpg.*question 2: 1\.jpg"):
        load(engine, tmp_path / "in.jsonl")


def test_a_damaged_archive_is_a_message(engine, tmp_path: Path):
    """fails when content that does not unpack, or two files of one name, are errors of this program"""
    line = json.dumps({"messages": [{"role": "user", "content": "hello " * 99}]})
    file = tmp_path / "chat.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversation.jsonl", line)
    whole, at = file.read_bytes(), file.read_bytes().index(b".jsonl") + len(".jsonl")
    file.write_bytes(whole[:at] + bytes(255 - one for one in whole[at : at + 8]) + whole[at + 8 :])
    with pytest.raises(LoadError, match="chat.zip cannot be unpacked"):
        load(engine, file)
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("conversation.jsonl", line)
    with pytest.raises(LoadError, match="two files of one name"):
        load(engine, file)
