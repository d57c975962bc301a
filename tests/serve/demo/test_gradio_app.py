"""The demo's page: a real gradio server, used through its HTTP API as a browser would."""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatbridge.cli import demo
from chatbridge.common.errors import ConfigError
from chatbridge.experiment.open import task_nodes
from chatbridge.serve.demo.controls import options_of
from chatbridge.serve.demo.examples import find_examples
from chatbridge.serve.demo.gradio_app import build_app
from chatbridge.serve.demo.launch import launch
from chatbridge.serve.demo.page_content import as_text, messages_of
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.session import ChatTurn
from chatbridge.serve.uploads.upload_parts import Attachment
from tests.helpers.serve_parts import ChatWorld

gradio_client = pytest.importorskip("gradio_client")
TOKENS = 6


@pytest.fixture(scope="module")
def address(world: ChatWorld, engine: ChatEngine) -> Iterator[str]:
    app = build_app(engine, find_examples(task_nodes(world.config), engine.modalities))
    _, address, _ = launch(app, block=False)
    yield address
    app.close()


@pytest.fixture
def client(address: str) -> Any:
    """A client with a session of its own."""
    return gradio_client.Client(address, verbose=False)


def ask(client: Any, text: str, *files: Path) -> tuple[list[dict], str]:
    """Sends a message; returns the chat and the panel of what the model was given."""
    message = {"text": text, "files": [gradio_client.handle_file(str(path)) for path in files]}
    _, chat, _, _ = client.predict(message, 0, TOKENS, api_name="/chat")
    return chat, client.predict(api_name="/given")


def texts(chat: list[dict], role: str) -> list[str]:
    return [part["text"] for one in chat if one["role"] == role for part in one["content"] if part["type"] == "text"]


def test_questions_about_image_video_and_audio_are_answered(client, world):
    """fails when an upload does not reach the model, an answer is missing, or a session forgets its media"""
    for number, (name, (kind, count)) in enumerate(
        {"image": ("image: photo.jpg", 1), "video": ("audio: clip.mp4", 3), "audio": ("audio: tone.wav", 4)}.items(), 1
    ):
        chat, given = ask(client, f"what color is it {number} ?", world.files[name])
        assert texts(chat, "user")[-1] == f"what color is it {number} ?"
        assert len(texts(chat, "assistant")) == number and texts(chat, "assistant")[-1]
        assert kind in given and given.count("<li>") == count
    files = [part for one in chat for part in one["content"] if part["type"] == "file"]
    assert len(files) == 3


def test_a_file_that_cannot_be_read_is_explained(client, world):
    """fails when a truncated image or an empty audio file gives an error page instead of a reason"""
    chat, media = ask(client, "what color is it ?", world.files["truncated"])
    (reported,) = texts(chat, "assistant")
    assert reported.startswith("Cannot answer: half.jpg: ") and "<li>" not in media
    chat, _ = ask(client, "what tone ?", world.files["empty"])
    assert texts(chat, "assistant")[-1] == "Cannot answer: empty.wav: the file is empty (0 bytes)"
    chat, media = ask(client, "and now ?", world.files["silent_video"])
    assert texts(chat, "assistant")[-2] == "Note: silent.mp4 has no audio track; only the video is used"
    assert "video: silent.mp4" in media


def test_answers_stream_and_clear_forgets(client, world):
    """fails when the page displays an answer only once complete, or the model still reads a cleared chat"""
    message = {"text": "red ?", "files": [gradio_client.handle_file(str(world.files["image"]))]}
    job = client.submit(message, 0, 40, api_name="/chat")
    *_, whole = answers = ["".join(texts(output[1], "assistant")) for output in job]
    assert len(set(answers)) > 5 and all(whole.startswith(part) for part in answers)
    client.predict(api_name="/clear")
    chat, media = ask(client, "what color is it ?")
    assert texts(chat, "user") == ["what color is it ?"] and "<li>" not in media


def test_clients_do_not_share_a_chat(client, address, world):
    """fails when one client gets the chat of another one"""
    ask(client, "my secret", world.files["image"])
    chat, _ = ask(gradio_client.Client(address, verbose=False), "what color is it ?")
    assert texts(chat, "user") == ["what color is it ?"]


def test_the_page_loads_nothing_from_other_servers(address):
    """fails when the page loads a font or a script from another server, or its policy allows what an answer names"""
    import httpx

    got = httpx.get(address)
    policy = dict(part.strip().split(" ", 1) for part in got.headers["content-security-policy"].split(";"))
    assert policy["default-src"].startswith("'self'") and policy["connect-src"] == "'self' data: blob:"
    assert not any(word in (policy["default-src"]) for word in ("http", "*"))
    page = got.text
    assert "ChatBridge" in page and "fonts.googleapis" not in page and "fonts.gstatic" not in page
    assert address.startswith("http://127.0.0.1:")


EVIL = "<img src='http://elsewhere.example/x.png'> ![x](http://elsewhere.example/y.png) half \ud83d"
SHOWN = "&lt;img src='http://elsewhere.example/x.png'&gt; ![x](http://elsewhere.example/y.png) half \ufffd"


def test_content_is_shown_as_text():
    """fails when a question, an answer, a note or a problem becomes markup in the page, or a lone surrogate in one
    raises"""
    attached = Attachment(Path("x.wav"), (), EVIL)
    turns = (ChatTurn(EVIL, (attached,), EVIL, is_done=True, notes=(EVIL,)), ChatTurn("?", problem=EVIL))
    reported = [one["content"] for one in messages_of(turns) if isinstance(one["content"], str)]
    assert reported == [SHOWN, f"Note: {SHOWN}", SHOWN, "?", f"Cannot answer: {SHOWN}"]


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        ("2 < 3 & 4 > 1, R & D", "2 < 3 & 4 > 1, R & D"),  # no markup: copied as it was written
        ("a\nb `c` *d*", "a\nb `c` *d*"),
        ("&lt;", "&amp;lt;"),
        ("</b", "&lt;/b"),
        ("<!-- x", "&lt;!-- x"),
        ("<svg/onload=x>", "&lt;svg/onload=x&gt;"),
        ("\ud83d\ude00", "\U0001f600"),
    ],
)
def test_only_markup_is_escaped(texts: str, shown: str):
    """fails when a tag or an entity is not escaped, or plain text gets entities"""
    assert as_text(texts) == shown


def test_no_component_renders_markup(engine):
    """fails when text of users or of the model reaches a component that renders Markdown or HTML"""
    import gradio

    app = build_app(engine, title=EVIL)
    blocks = list(app.blocks.values())
    (chat,) = [block for block in blocks if isinstance(block, gradio.Chatbot)]
    assert (chat.render_markdown, chat.sanitize_html) == (False, True)
    assert "elsewhere" not in (chat.placeholder or "")
    assert not [block for block in blocks if isinstance(block, gradio.Markdown)]
    assert all("<img" not in str(block.value) for block in blocks if isinstance(block, gradio.HTML))


def test_temperature_zero_is_greedy():
    """fails when temperature 0 divides by zero, or a temperature has no effect"""
    greedy, warm = (options_of({"temperature": degree, "max_tokens": 5}) for degree in (0, 0.7))
    assert not greedy.sample and greedy.max_new_tokens == 5
    assert warm.sample and warm.temperature == 0.7


def test_examples_come_from_the_held_out_media(world):
    """fails when the demo has no example although data are available, or has one of an ablation"""
    found = find_examples(task_nodes(world.config), ("image", "video", "audio"), per_task=1)
    assert [path.name for one in found for path in one.files] == ["i0.jpg", "v0.mp4", "v0.wav", "a0.wav"]
    assert find_examples({"x": {"dataset": {"name": "nobody"}}, "y": None}, ("image",)) == []
    assert find_examples(task_nodes("no/such.yaml"), ("image",)) == []


def test_the_command_reports_mistakes(world, capsys):
    """fails when the demo starts without a model, or hides a mistake"""
    with pytest.raises(SystemExit) as caught:
        demo.main([])
    assert caught.value.code == 2 and "--cfg-path" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"run\.init_from"):
        demo.main(["--cfg-path", str(world.config), "--checkpoint", "no/such"])
    asked = demo.parse_arguments(["--cfg-path", "x.yaml"])
    assert (asked.host, asked.share, asked.port, asked.auth) == ("127.0.0.1", False, None, None)
    with pytest.raises(ConfigError) as both:  # those of both models at once
        demo.main(["--cfg-path", "no/a.yaml", "--compare", "no/b.yaml"])
    assert "no/a.yaml" in str(both.value) and "no/b.yaml" in str(both.value)
    with pytest.raises(SystemExit):
        demo.main(["--cfg-path", "x.yaml", "--compare-options", "run.seed=1"])
    assert "belong to --compare" in capsys.readouterr().err
