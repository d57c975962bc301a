"""The panel "What the model was given", as HTML."""

from __future__ import annotations

from pathlib import Path

from chatbridge.serve.demo.answering import Side
from chatbridge.serve.demo.chat_state import Chat, Question
from chatbridge.serve.demo.given_panel import EMPTY, counts_text, escaped, given_html
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.request import Timing
from chatbridge.serve.session import ChatTurn
from tests.helpers.serve_parts import ChatWorld

EVIL = "<img src=x onerror=y> ${1+1} {{value}}"


def chat_of(engine: ChatEngine, *paths: Path, text: str = "?") -> Chat:
    turn = ChatTurn(text, tuple(map(engine.attach, paths)), num_tokens=3, timing=Timing(0.0, 0.5, 1.5))
    return Chat((Question(text, paths, (turn,)),), "id")


def test_the_panel_has_media_prompt_and_counts(engine: ChatEngine, world: ChatWorld):
    """fails when the panel leaves out a picture, a placeholder or a count, or those of an earlier question are large"""
    chat = chat_of(engine, world.files["video"], text="what color ?")
    panel = given_html([Side(engine)], chat)
    assert panel.count("<li>video: clip.mp4<img ") == 1 and panel.count("data:image/png;base64,") == 2
    assert "what color ?" in panel and "<span class=media>&lt;video x " in panel
    assert "<td>answer</td><td>3 tokens</td>" in panel and "Question 1 of 1" in panel
    done = ChatTurn("?", chat.questions[0].turns[0].attached, "red", is_done=True)
    later = Chat((Question("?", (), (done,)), Question("and ?", (), (ChatTurn("and ?"),))), "id")
    assert given_html([Side(engine)], later).count("<li><details>") == 2
    assert "<details>" not in given_html([Side(engine)], later, 0)
    assert given_html([Side(engine)], Chat()) == EMPTY


def test_nothing_in_the_panel_is_markup(engine: ChatEngine, world: ChatWorld, tmp_path: Path):
    """fails when a name, a question or a title becomes markup, or a template that gradio fills in"""
    path = tmp_path / f"{EVIL}.wav".replace("/", "")
    path.write_bytes(world.files["audio"].read_bytes())
    panel = given_html([Side(engine, EVIL)], chat_of(engine, path, text=EVIL))
    assert "<img src=x" not in panel and "${" not in panel and "{{" not in panel
    assert panel.count(escaped("<img src=x onerror=y>")) >= 3


def test_counts_of_growing_answers(engine: ChatEngine):
    """fails when the line of counts mixes up two models, or divides by zero before the second token"""
    turns = [ChatTurn("?", num_tokens=1, timing=Timing(0.0, 0.5, 0.5)), ChatTurn("?")]
    assert counts_text([Side(engine, "a"), Side(engine, "b")], turns) == "a: 1 token, the first one after 0.50 s"
    turns = [ChatTurn("?", num_tokens=11, timing=Timing(0.0, 0.5, 1.5))]
    assert counts_text([Side(engine)], turns) == "11 tokens, the first one after 0.50 s, 10.0 tokens/s"
