"""The demo's page: a chat with a model about images, videos, audio and the modalities of plugins."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.extras import need
from chatbridge.common.text_repair import repaired
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.serve.demo.answering import Side
from chatbridge.serve.demo.controls import ANY_SEED, Control, controls_of
from chatbridge.serve.demo.events import Components, connect
from chatbridge.serve.demo.examples import DemoExample
from chatbridge.serve.demo.given_panel import EMPTY, escaped
from chatbridge.serve.demo.handlers import Handlers
from chatbridge.serve.demo.kept_chats import KeptChats
from chatbridge.serve.demo.live_chat import LiveChat
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.saved_conversations.feedback import Feedback

TITLE = "ChatBridge"
QUEUE_SIZE = 64  # waiting questions; a further one gets the message that the server is busy
UNNUMBERED = "Ask, and attach files with the paper clip"
NUMBERED = f"{UNNUMBERED}; [1] in the text is the place of the first file, [2] that of the second"
THUMBS = "A thumb on an answer writes the chat and copies of its files to {} on the machine that runs this page."
UPLOAD_LIFETIME_S = 24 * 3600


def build_app(
    engine: ChatEngine,
    examples: Sequence[DemoExample] = (),
    title: str = TITLE,
    other: Side | None = None,
    name: str = "",
    feedback: Feedback | None = None,
) -> Any:
    """A gradio Blocks. Its API has /chat (message, temperature, max_tokens ...), which streams, /retry, /undo, /clear.

    All content is shown as text, see `page_content`. Over the API, text with markup has entities (`&lt;`).

    other   a second model, which answers the same questions beside the first one
    name    of the first model, where there are two
    feedback  where thumbs are written; None: there are no thumbs
    """
    gr: Any = need("gradio", "the demo")
    sides = [Side(engine, name), *([other] if other else [])]
    cleanup = (3600, UPLOAD_LIFETIME_S)  # every hour, of uploads older than a day
    with gr.Blocks(title=title, analytics_enabled=False, fill_height=True, delete_cache=cleanup) as app:
        about = html.escape(f"Talk about {_listed(engine.modalities)}." if engine.modalities else "Text only.")
        gr.HTML(f"<h1>{html.escape(title)}</h1><p>{about}</p>", elem_id="head")
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                chats = _chats(gr, sides, feedback is not None)
                box, buttons, status = _question(gr, engine, examples)
            with gr.Column(scale=1, min_width=280):
                with gr.Accordion("What the model was given", open=True):
                    given = gr.HTML(EMPTY, elem_id="given")
                can_beam = all(side.engine.generator is None for side in sides)
                controls = controls_of(engine.generation, can_beam)
                shown = _controls(gr, controls)
                _about(gr, sides)
                if feedback is not None:
                    gr.HTML(f"<p>{escaped(THUMBS.format(feedback.file))}</p>", elem_id="thumbs")
        state = gr.State(LiveChat())
        parts = Components(box, chats, given, status, state, shown, buttons)
        kept = KeptChats(sides, Path(app.GRADIO_CACHE) / "chats", feedback)
        connect(gr, parts, Handlers(sides, kept, [one.name for one in controls]), controls)
    return app.queue(max_size=QUEUE_SIZE)


def _chats(gr: Any, sides: Sequence[Side], has_thumbs: bool) -> list[Any]:
    """The answers of every model, side by side."""
    made, thumbs = [], ("Like", "Dislike") if has_thumbs else None
    with gr.Row():
        for number, side in enumerate(sides):
            with gr.Column(min_width=280):
                made.append(
                    gr.Chatbot(
                        elem_id="chat" if not number else "other", elem_classes="chat", height="58vh", min_height=320,
                        label=as_label(side.name), show_label=bool(side.name), render_markdown=False,
                        sanitize_html=True, feedback_options=thumbs, buttons=["copy"],
                        editable=None if number else "user",
                        group_consecutive_messages=False,  # gradio cannot edit a text that shares a bubble with a file
                        placeholder="Attach files with the paper clip below, and ask about them.",
                    )
                )  # fmt: skip
    return made


def _question(gr: Any, engine: ChatEngine, examples: Sequence[DemoExample]) -> tuple[Any, dict[str, Any], Any]:
    """The input box, its buttons, a line for messages, and the examples."""
    box = gr.MultimodalTextbox(
        show_label=False, file_count="multiple", file_types=list(_uploads(engine.modalities)),
        sources=["upload", "microphone"] if "audio" in engine.modalities else ["upload"],
        placeholder=NUMBERED if engine.question_form.numbered else UNNUMBERED,
        stop_btn=False, autofocus=True, elem_id="box",
    )  # fmt: skip
    buttons: dict[str, Any] = {}
    with gr.Row(elem_id="buttons"):
        for name in ("Retry", "Undo", "Clear", "Save"):
            buttons[name.lower()] = gr.Button(name, size="sm", elem_id=name.lower())
        endings = [".zip", ".jsonl"]
        buttons["load"] = gr.UploadButton("Load", size="sm", elem_id="load", file_types=endings, file_count="single")
    buttons["file"] = gr.DownloadButton("", elem_id="fetch", visible="hidden")
    status = gr.HTML("", elem_id="status", padding=False)
    if cameras := [kind for kind in ("image", "video") if kind in engine.modalities]:
        with gr.Accordion("Camera", open=False), gr.Row():
            if "image" in cameras:
                buttons["photo"] = gr.Image(sources=["webcam"], type="filepath", label="Photo", elem_id="photo")
            if "video" in cameras:
                buttons["film"] = gr.Video(sources=["webcam"], label="Video", elem_id="film")
    if examples:
        values = [[{"text": repaired(one.text), "files": list(map(str, one.files))}] for one in examples]
        gr.Examples(values, [box], label="Examples: choose one, then send", examples_per_page=6)
    return box, buttons, status


def _controls(gr: Any, controls: Sequence[Control]) -> list[Any]:
    with gr.Accordion("Decoding", open=False):
        return [_control(gr, one) for one in controls]


def _control(gr: Any, one: Control) -> Any:
    words = {"label": one.label, "info": one.info, "elem_id": one.name}
    if one.low is None:
        return gr.Number(one.value, precision=0, minimum=ANY_SEED, **words)
    return gr.Slider(one.low, one.high, one.value, step=one.step, **words)


def _about(gr: Any, sides: Sequence[Side]) -> None:
    with gr.Accordion("This model" if len(sides) == 1 else "These models", open=False):
        for side in sides:
            label = {"label": as_label(side.name)} if side.name else {"show_label": False}
            gr.Textbox(repaired("\n".join(side.engine.about)), lines=6, max_lines=14, interactive=False, **label)


def as_label(name: str) -> str | None:
    """A component's label; gradio shows it as text."""
    return repaired(name) or None


def _uploads(modalities: Sequence[str]) -> Iterator[str]:
    """File types that the model can process, as gradio names them: MIME types or endings. A model with audio but no
    video can use the audio track of videos."""
    for one in MODALITIES:
        if one.name in modalities:
            yield from (one.mime,) if one.mime else (f".{ending.split('.')[-1]}" for ending in one.endings.upload)
    if "audio" in modalities and "video" not in modalities:
        yield "video"


def _listed(modalities: Sequence[str]) -> str:
    names = [MODALITIES.plural(kind) for kind in modalities]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


__all__ = ["TITLE", "build_app"]
