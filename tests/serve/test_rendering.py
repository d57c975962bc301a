"""What a user sees and can do while an image is rendered, and what a chat keeps of it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from chatbridge.cli.chat_loop import ChatLoop
from chatbridge.cli.chat_terminal import AnswerPrinter
from chatbridge.conversation.messages import Drawing, Media, Text, assistant, user
from chatbridge.models.drawing import Artist
from chatbridge.models.generators import RenderError
from chatbridge.models.language import GenerateOptions
from chatbridge.processors.limits import ChatLimits
from chatbridge.serve.context_length import NoAnswer
from chatbridge.serve.demo.page_content import messages_of
from chatbridge.serve.dialogue import Dialogue
from chatbridge.serve.drawn_files import DrawnFiles
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.rendering import progress_of
from chatbridge.serve.session import ChatTurn, ask, check_size, conversation_of
from tests.helpers.serve_parts import ChatWorld
from tests.helpers.slow_generator import SlowGenerator, dictate
from tests.helpers.toy_drawing import with_toy_lab

OPTIONS = GenerateOptions(max_new_tokens=40, seed=3)
TEXT = "so {a cat} .\n"


@pytest.fixture(scope="module", autouse=True)
def toy_lab() -> Iterator[str]:
    yield from with_toy_lab()


@pytest.fixture(scope="module")
def shared(chat_world: ChatWorld) -> ChatEngine:
    world = chat_world
    model = world.world.model() | {"generator": {"name": "plain_color"}}
    path = world.write("draw.yaml", plugins=["toy_lab"], model=model, evaluation={"template": "sketch"})
    return ChatEngine.from_config(path)


@pytest.fixture
def slow() -> SlowGenerator:
    return SlowGenerator()


@pytest.fixture
def engine(shared: ChatEngine, slow: SlowGenerator, monkeypatch: pytest.MonkeyPatch) -> ChatEngine:
    """Its next answer is TEXT, drawn by `slow`."""
    monkeypatch.setattr(shared, "artist", Artist(slow))
    monkeypatch.setattr("chatbridge.serve.rendering.POLL_S", 0.01)
    dictate(shared, monkeypatch, TEXT)
    return shared


def test_the_page_shows_how_far_an_image_is(engine, slow):
    """fails when a user waits without a sign, or sees the caption as an answer before its image is there"""
    shown: list[str] = []
    for session in ask(engine, (), "draw", options=OPTIONS):
        texts = [one["content"] for one in messages_of(session) if isinstance(one["content"], str)]
        if session[-1].rendering is not None:
            shown.append(texts[-1])
            slow.allow(1)
    assert shown[0] == "Drawing: a cat ..." and "Drawing: a cat ... (50%)" in shown
    contents = [one["content"] for one in messages_of(session)]
    assert session[-1].rendering is None and not any("Drawing:" in str(one) for one in contents)
    assert Path(contents[2]["path"]).is_file() and contents[3] == "Drawn: a cat"


def test_a_stop_ends_a_rendering_and_leaves_a_clean_conversation(engine, slow):
    """fails when a stop waits for the image, a half-drawn one stays in the conversation, or the next answer fails"""
    stopped = threading.Event()
    slow.num_steps = 50
    for session in ask(engine, (), "draw", options=OPTIONS, is_stopped=stopped.is_set):
        if session[-1].rendering is not None:
            slow.allow(1)
            stopped.set()
    slow.allow(50)
    assert slow.begun.is_set() and not session[-1].is_done
    *_, after = ask(engine, session, "and ?", options=GenerateOptions(max_new_tokens=3))
    first = conversation_of(after)[1]
    assert [type(part) for part in first.parts] == [Text] and first.text.strip() == "so"
    assert after[-1].is_done and after[-1].problem is None and "stopped" in after[0].notes[-1]
    assert slow.num_done < 50


def test_closing_the_answer_ends_the_rendering(engine, slow):
    """fails when a page that is closed keeps the generator busy to the end of its image"""
    slow.num_steps = 50
    answers = engine.stream((user("draw"),), OPTIONS)
    for answer in answers:
        if answer.rendering is not None:
            slow.allow(1)
            break
    answers.close()
    slow.allow(50)
    thread = next((one for one in threading.enumerate() if one.name == "render"), None)
    if thread is not None:
        thread.join(20)
    assert slow.num_done < 50


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(RenderError("the memory of cuda:1 is full"), "the memory of cuda:1 is full"), (OSError("gone"), "OSError: gone")],
)
def test_a_generator_that_fails_costs_its_image_only(engine, slow, fault, reason):
    """fails when an exception of a rendering thread is lost, or ends the answer"""
    slow.fault = fault
    slow.allow(4)
    answer = engine.answer((user("draw"),), OPTIONS)
    assert [part for part in answer.parts if isinstance(part, Drawing)] == [Drawing("a cat")]
    assert answer.is_done and any(reason in note for note in answer.notes)


def test_replies_have_images(engine, slow):
    """fails when load_model(...).reply_parts loses the image, or its text differs from that of reply"""
    slow.allow(4)
    first, drawing, last = engine.reply_parts("draw", OPTIONS)
    assert (first.text, drawing.caption, last.text) == ("so ", "a cat", " .") and drawing.ref.shape == (3, 8, 8)


def test_the_parts_of_an_answer_that_begins_with_an_image(engine, slow, monkeypatch):
    """fails when an answer without text before its image cannot be streamed as parts"""
    slow.allow(4)
    dictate(engine, monkeypatch, "{a cat} .\n")
    parts = list(engine.parts((user("draw"),), OPTIONS))
    assert [type(part) for part in parts] == [Drawing, Text]


def test_an_error_of_a_rendering_reaches_the_caller():
    """fails when an error that is none of a generator disappears in its thread"""

    def broken() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        list(progress_of(broken, lambda: False))


def test_the_terminal_saves_images_and_names_their_files(engine, slow, tmp_path, capsys, monkeypatch):
    """fails when a drawn image is lost, replaces a file, or is missing in the JSON of an answer"""
    (tmp_path / "drawing_001.png").write_text("mine")
    for as_json in (False, True):
        slow.allow(4)
        dictate(engine, monkeypatch, TEXT)
        printer = AnswerPrinter(as_json, DrawnFiles(tmp_path))
        ChatLoop(Dialogue(engine, tmp_path, OPTIONS), printer).take("draw")
        out, err = capsys.readouterr()
        if not as_json:
            assert out == "so [drawing: a cat] .\n" and f"image of 'a cat': {tmp_path / 'drawing_002.png'}" in err
    assert json.loads(out)["drawings"] == [{"caption": "a cat", "image": str(tmp_path / "drawing_003.png")}]
    assert (tmp_path / "drawing_001.png").read_text() == "mine"
    with Image.open(tmp_path / "drawing_002.png") as image:
        assert image.size == (8, 8) and image.getpixel((0, 0)) == (200, 200, 200)


def test_an_answer_as_one_text_has_blanks_around_its_drawings():
    """fails when words and a caption in brackets run together, or a blank stands before a full stop"""
    parts = (Text("Here it is:"), Drawing("a cat"), Text("It is"), Text(" red"), Drawing("a fox"), Text(", too."))
    shown = ChatTurn("draw", parts=parts, is_done=True).display
    assert shown == "Here it is: [drawing: a cat] It is red [drawing: a fox], too."


def test_a_folder_that_cannot_be_written_is_told(engine, slow, tmp_path, capsys):
    """fails when an image that cannot be saved ends the chat"""
    (tmp_path / "file").write_text("")
    slow.allow(4)
    loop = ChatLoop(Dialogue(engine, tmp_path, OPTIONS), AnswerPrinter(False, DrawnFiles(tmp_path / "file")))
    loop.take("draw")
    assert "cannot be saved in" in capsys.readouterr().err and loop.failures == 0


def test_a_person_who_waits_in_a_terminal_is_told(engine, slow, tmp_path, capsys, monkeypatch):
    """fails when nothing is written while an image is rendered"""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    slow.allow(4)
    ChatLoop(Dialogue(engine, tmp_path, OPTIONS), AnswerPrinter()).take("draw")
    assert "drawing: a cat ..." in capsys.readouterr().err


def test_a_conversation_beyond_its_limits_is_not_given_to_the_model(engine, monkeypatch):
    """fails when words or images are not counted over the whole conversation, drawn ones included"""
    image: Any = torch.zeros(3, 4, 4, dtype=torch.uint8)
    talk = (user("two words", Media("image", image)), assistant("a", Drawing("not counted words", image)), user("more"))
    check_size(talk, ChatLimits(max_words=4, max_images=2))
    with pytest.raises(NoAnswer, match=r"4 words, more than the 3 of evaluation.chat.max_words; begin a new"):
        check_size(talk, ChatLimits(max_words=3))
    with pytest.raises(NoAnswer, match="2 images, more than the 1 "):
        check_size(talk, ChatLimits(max_images=1))
    monkeypatch.setattr(engine, "limits", ChatLimits(max_words=2))
    *_, session = ask(engine, (), "now draw me")
    assert "ask with fewer words" in str(session[-1].problem) and not session[-1].parts
