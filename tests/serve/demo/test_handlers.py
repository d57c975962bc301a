"""What the events of the page do, without a browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatbridge.serve.demo.answering import Side
from chatbridge.serve.demo.chat_state import STOPPED_EMPTY, Chat
from chatbridge.serve.demo.controls import controls_of
from chatbridge.serve.demo.handlers import SAME, Handlers, View, text_and_files
from chatbridge.serve.demo.kept_chats import KeptChats
from chatbridge.serve.engine import ChatEngine
from tests.helpers.serve_parts import SHORT, ChatWorld


class Page:
    """Handlers with the values that a browser keeps."""

    def __init__(self, folder: Path, *engines: ChatEngine, **values: Any) -> None:
        controls = controls_of(SHORT)
        sides = [Side(one, str(at) if len(engines) > 1 else "") for at, one in enumerate(engines)]
        self.do = Handlers(sides, KeptChats(sides, folder), [one.name for one in controls])
        self.values = [values.get(one.name, one.value) for one in controls]
        self.chat = Chat()

    def last(self, views: Iterator[View]) -> View:
        *_, view = views
        self.chat = view.chat
        return view

    def send(self, text: str, *files: Path) -> View:
        return self.last(self.do.send({"text": text, "files": list(map(str, files))}, self.values, self.chat))

    def questions(self) -> list[str]:
        return [one.text for one in self.chat.questions]

    def answers(self, side: int = 0) -> list[str]:
        return [turn.answer for turn in self.chat.session(side)]


@pytest.fixture
def page(engine: ChatEngine, tmp_path: Path) -> Page:
    return Page(tmp_path / "chats", engine)


def test_retry_and_undo_act_on_the_last_question(page: Page, world: ChatWorld):
    """fails when a retry keeps the old answer, forgets the files, or undo loses what the user wrote"""
    page.send("what color is it ?", world.files["image"])
    page.send("and now ?")
    before = page.answers()
    page.last(page.do.retry(page.values, page.chat))
    assert page.questions() == ["what color is it ?", "and now ?"] and page.answers() == before  # greedy
    view = page.do.undo(page.chat)
    assert view.box == {"text": "and now ?", "files": []} and len(view.chat.questions) == 1
    page.chat = view.chat
    page.last(page.do.retry(page.values, page.chat))
    assert page.answers() == before[:1] and page.chat.session(0)[0].attached
    view = page.do.undo(page.chat)
    assert view.box["files"] == [str(world.files["image"])] and view.chat.questions == ()
    assert page.do.undo(view.chat).box is SAME and not page.last(page.do.retry(page.values, view.chat)).messages[0]


def test_an_edited_question_is_asked_again_and_later_ones_go(page: Page, world: ChatWorld):
    """fails when an edit asks another question than the one that was edited, keeps later turns, or loses its files"""
    page.send("what color is <b ?", world.files["image"])
    first = page.send("two ?").messages[0]
    assert [one["content"] for one in first[1:2]] == ["what color is &lt;b ?"]
    page.last(page.do.edit(1, "what color is &lt;i ?", page.values, page.chat))
    assert page.questions() == ["what color is <i ?"]
    assert page.chat.questions[0].files == (world.files["image"],) and page.chat.session(0)[0].attached


def test_a_retry_reads_a_file_that_could_not_be_read_again(page: Page, world: ChatWorld, tmp_path: Path):
    """fails when a question with a problem forgets its files, or hands them to the model with later questions"""
    path = tmp_path / "late.jpg"
    path.write_bytes(b"")
    page.send("what color is it ?", path)
    assert page.chat.session(0)[0].problem == "late.jpg: the file is empty (0 bytes)"
    path.write_bytes(world.files["image"].read_bytes())
    page.last(page.do.retry(page.values, page.chat))
    assert page.chat.session(0)[0].problem is None and page.answers()[0]


def test_two_models_answer_the_same_question(engine: ChatEngine, world: ChatWorld, tmp_path: Path):
    """fails when a model answers for another one, gets its history, or waits for it"""
    page, alone = Page(tmp_path, engine, engine), Page(tmp_path, engine)
    for text, files in (("what color is it ?", ("image",)), ("and now ?", ())):
        page.send(text, *(world.files[name] for name in files))
        alone.send(text, *(world.files[name] for name in files))
    assert page.answers(0) == page.answers(1) == alone.answers(0)
    page.send("what tone ?", world.files["truncated"])
    assert [bool(page.chat.session(side)[-1].problem) for side in (0, 1)] == [True, True]


def test_stopping_keeps_what_there_is(page: Page):
    """fails when a stopped answer is lost, the model works on, or an answer without a word becomes part of a prompt"""
    going = page.do.send("red ?", page.values, page.chat)
    views = [next(going) for _ in range(5)]
    going.close()
    wait_for_threads()
    stopped = page.do.stopped(views[-1].chat).chat.session(0)[-1]
    assert stopped.is_done and stopped.answer == views[-1].chat.session(0)[-1].answer != ""
    assert "this answer was stopped" in stopped.notes
    empty = page.do.stopped(views[1].chat)
    assert empty.chat.session(0)[-1].problem == STOPPED_EMPTY
    assert empty.messages[0][-1]["content"] == f"Note: {STOPPED_EMPTY}"


def test_settings_out_of_range_are_explained(engine: ChatEngine, tmp_path: Path):
    """fails when a setting that only the API can send ends in an error page, or changes the next question"""
    for value, reason in (({"min_tokens": 12}, "above the longest"), ({"top_k": 1.5, "temperature": 1}, "top_k is 1.5"),
                          ({"beams": 500}, "num_beams"), ({"seed": -7}, "seed")):  # fmt: skip
        page = Page(tmp_path, engine, **value)
        page.send("red ?")
        assert reason in (page.chat.session(0)[0].problem or "")


def test_nothing_is_asked_without_text_and_files(page: Page):
    """fails when an empty message makes the model answer, or an empty edit removes what was asked"""
    assert not page.send("  ").chat.questions
    page.send("red ?")
    assert page.last(page.do.edit(0, " ", page.values, page.chat)).chat.questions[0].text == "red ?"


def test_text_and_files_of_messages():
    """fails when a message of the API is read as another one"""
    assert text_and_files("red ?") == ("red ?", ()) and text_and_files(None) == ("", ())
    assert text_and_files({"text": None, "files": ["a.jpg"]}) == ("", (Path("a.jpg"),))


def wait_for_threads() -> None:
    for one in threading.enumerate():
        if one.name.startswith("demo-answer"):
            one.join(10)
            assert not one.is_alive()
