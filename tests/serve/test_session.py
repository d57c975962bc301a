"""Chat sessions: turns, their problems, and the conversation that the model reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from chatbridge.conversation.messages import Text, assistant
from chatbridge.conversation.question_form import QuestionForm
from chatbridge.processors.limits import ChatLimits
from chatbridge.serve.answer import Answer
from chatbridge.serve.session import ChatTurn, ask, conversation_of
from tests.helpers.serve_parts import SHORT


def test_an_unreadable_file_is_a_problem_of_its_turn_only(engine, world):
    """fails when an unreadable file ends the chat, is read again with the next question, or has no message"""
    *_, session = ask(engine, (), "what color is it ?", [world.files["truncated"]], SHORT)
    assert len(session) == 1 and session[0].problem.startswith("half.jpg: ")
    *_, session = ask(engine, session, "what color is it ?", [world.files["silent_video"]], SHORT)
    assert session[1].is_done and session[1].notes == ("silent.mp4 has no audio track; only the video is used",)
    assert conversation_of(session) == (session[1].question, assistant(session[1].answer))


def test_a_session_continues_from_earlier_turns(engine, world, prompts):
    """fails when the prompt lacks an earlier question or its media, or a stopped answer is lost"""
    stopped = ChatTurn("which tone ?", (engine.attach(world.files["audio"]),), answer="high")
    *_, session = ask(engine, (stopped,), "and the color ?", (), SHORT)
    assert session[0].is_done and session[0].notes == ("this answer was stopped",)
    assert list(prompts[0].media) == ["audio"]
    assert [message.role for message in conversation_of(session)] == ["user", "assistant"] * 2


def test_files_without_text_are_described(engine, world):
    """fails when files without text give no question, or an empty turn gives one"""
    *_, session = ask(engine, (), " ", [world.files["video"], world.files["audio"]], SHORT)
    assert session[0].text == "Describe the video and the sound."
    assert list(ask(engine, (), " ", (), SHORT)) == []


def test_a_conversation_does_not_read_its_files_again(engine, world, monkeypatch):
    """fails when a following question decodes the files of earlier turns again"""
    *_, session = ask(engine, (), "what color is it ?", [world.files["image"], world.files["video"]], SHORT)
    monkeypatch.setattr(engine.reader, "_send", lambda request: pytest.fail(f"{request.ref} is read again"))
    *_, session = ask(engine, session, "and now ?", (), SHORT)
    assert session[-1].is_done and session[-1].problem is None


def test_an_error_of_the_model_ends_its_turn_only(engine, world, monkeypatch):
    """fails when an error of the model ends the chat"""

    def broken(*given):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "embedded", broken)
        *_, session = ask(engine, (), "what ?", [world.files["image"]], SHORT)
    assert session[0].problem == "the model failed (RuntimeError: out of memory)"
    *_, session = ask(engine, session, "what ?", [world.files["image"]], SHORT)
    assert session[1].is_done


def test_notes_of_a_growing_answer_do_not_pile_up():
    """fails when each longer note about several drawings is shown beside the shorter ones before it"""
    grown = [Answer((Text("a"),), notes=notes) for notes in ((), ("no image of 'a'",), ("no image of 'a', 'b'",))]
    engine: Any = SimpleNamespace(question_form=QuestionForm(), limits=ChatLimits(), stream=lambda *given: iter(grown))
    *_, (turn,) = ask(engine, (), "Draw two.")
    assert turn.notes == ("no image of 'a', 'b'",)
