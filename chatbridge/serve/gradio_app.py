"""The demo: a page to talk with a model about images, videos, audio and the modalities of plugins."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

from chatbridge.common.extras import need
from chatbridge.common.text_repair import repaired
from chatbridge.conversation.messages import Drawing, Part, Text
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.models.language import GenerateOptions
from chatbridge.processors.limits import MB, ChatLimits
from chatbridge.serve.drawn_images import image_file
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.examples import Example
from chatbridge.serve.page_text import SamePlaceOnly, as_text
from chatbridge.serve.session import Session, Turn, ask

TITLE = "ChatBridge"
MOST_WAITING = 64  # questions in the queue; a later one is told that the server is busy
KEPT_S = 24 * 3600  # uploads are removed after a day
CSS = """
.gradio-container {max-width: 1100px !important; margin: 0 auto !important}
#head {margin-bottom: 0} #head p {opacity: .75; margin-top: 0}
#chat img, #chat video {max-height: 240px; min-height: 96px; object-fit: contain}
#media ol {margin: 0; padding-left: 1.2em} #media li {margin: .25em 0; overflow-wrap: anywhere}
#media .note {opacity: .75; font-size: .9em}
.gallery-item .container {flex-wrap: wrap; min-width: 0 !important} .gallery-item audio {max-width: 180px}
@media (max-width: 600px) {.gradio-container .main > .wrap {padding: 12px !important}}
footer {display: none !important}
"""


def build_app(engine: ChatEngine, examples: Sequence[Example] = (), title: str = TITLE) -> Any:
    """A gradio Blocks. Over its API, /chat streams (message, temperature, max_tokens) and /clear forgets.

    Everything is shown as text, see `shown`. Over the API, words that hold markup come with entities (`&lt;`).
    """
    gr: Any = need("gradio", "the demo")
    with gr.Blocks(title=title, analytics_enabled=False, fill_height=True, delete_cache=(3600, KEPT_S)) as app:
        session = gr.State(())
        about = html.escape(f"Talk about {_listed(engine.modalities)}.")
        gr.HTML(f"<h1>{html.escape(title)}</h1><p>{about}</p>", elem_id="head")
        with gr.Row():
            with gr.Column(scale=3, min_width=240):
                chat = gr.Chatbot(
                    elem_id="chat", height="62vh", min_height=320, show_label=False, render_markdown=False,
                    sanitize_html=True, feedback_options=None, buttons=["copy"],
                    placeholder="Add files with the clip below, and ask about them.",
                )  # fmt: skip
                box = gr.MultimodalTextbox(
                    show_label=False, file_count="multiple", file_types=list(_uploads(engine.modalities)),
                    sources=["upload", "microphone"] if "audio" in engine.modalities else ["upload"],
                    placeholder="Ask, and add files with the clip", stop_btn=True, autofocus=True,
                )  # fmt: skip
                if examples:
                    values = [[{"text": repaired(one.text), "files": list(map(str, one.files))}] for one in examples]
                    gr.Examples(values, [box], label="Try one: it fills the box, then send", examples_per_page=6)
            with gr.Column(scale=1, min_width=220):
                media = gr.HTML(media_list(()), elem_id="media")
                clear = gr.Button("Clear the chat", variant="secondary")
                with gr.Accordion("How answers are drawn", open=True):
                    temperature = gr.Slider(0, 1.5, 0, step=0.05, label="Temperature", info="0: the likeliest words")
                    max_tokens = gr.Slider(1, 1024, 128, step=1, label="Longest answer", info="tokens")
                with gr.Accordion("This model", open=False):
                    about = repaired("\n".join(engine.about))
                    gr.Textbox(about, show_label=False, lines=6, max_lines=14, interactive=False)

        def chat_turn(message: Any, temperature: float, max_tokens: float, session: Session) -> Iterator[tuple]:
            text, files = _message(message)
            empty = {"text": "", "files": []}
            yield empty, messages_of(session), media_list(session), session
            try:
                options = options_of(temperature, max_tokens)
            except (TypeError, ValueError) as error:  # over the API; the sliders stay within their ranges
                refused = (*session, Turn(repaired(text), problem=str(error)))
                yield empty, messages_of(refused), media_list(refused), refused
                return
            for grown in ask(engine, session, text, files, options):
                yield empty, messages_of(grown), media_list(grown), grown

        asked = box.submit(
            chat_turn, [box, temperature, max_tokens, session], [box, chat, media, session],
            api_name="chat", concurrency_limit=4, show_progress="hidden",
        )  # fmt: skip
        box.stop(None, cancels=[asked])
        forgotten = ({"text": "", "files": []}, [], media_list(()), ())
        for event, name in ((clear.click, "clear"), (chat.clear, False)):  # the button, and the bin in the chat
            event(lambda: forgotten, None, [box, chat, media, session], api_name=name, cancels=[asked], queue=False)
    return app.queue(max_size=MOST_WAITING)


def launch(
    app: Any,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    block: bool = True,
    max_file_mb: float = ChatLimits.max_file_mb,
) -> Any:
    """Serve a page until Ctrl-C, or with `block` False until `app.close()`. No font or script comes from elsewhere.

    max_file_mb   larger files are refused while they are uploaded
    raises   OSError when the port is taken, ValueError when this machine cannot reach its own page (a proxy)
    """
    gr: Any = need("gradio", "the demo")
    from starlette.middleware import Middleware

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    settings = {
        "server_name": host, "server_port": port, "share": share, "prevent_thread_lock": not block, "quiet": not block,
        "max_file_size": int(max_file_mb * MB),
        "theme": gr.themes.Soft(primary_hue="teal", secondary_hue="teal", **fonts),
        "css": CSS, "ssr_mode": False, "pwa": False, "app_kwargs": {"middleware": [Middleware(SamePlaceOnly)]},
    }  # fmt: skip
    try:
        return app.launch(**settings)
    except (
        ValueError
    ):  # gradio asks its page once and waits 3 s: too short on a busy machine for a page not made before
        app.close()
        return app.launch(**settings)


def options_of(temperature: float, max_tokens: float) -> GenerateOptions:
    """Temperature 0 takes the likeliest word each time."""
    if temperature <= 0:
        return GenerateOptions(max_new_tokens=int(max_tokens))
    return GenerateOptions(max_new_tokens=int(max_tokens), sample=True, temperature=temperature, top_p=0.95)


def messages_of(session: Session) -> list[dict[str, Any]]:
    """A session as gradio shows it: files, words, notes and problems as messages."""
    return [message for turn in session for message in _messages(turn)]


def _messages(turn: Turn) -> Iterator[dict[str, Any]]:
    for attachment in turn.attached:
        yield {"role": "user", "content": {"path": str(attachment.path), "alt_text": as_text(attachment.kind)}}
    if turn.text:
        yield {"role": "user", "content": as_text(turn.text)}
    if turn.problem is not None:
        yield {"role": "assistant", "content": as_text(f"Cannot answer: {turn.problem}")}
        return
    for note in turn.notes:
        yield {"role": "assistant", "content": as_text(f"Note: {note}")}
    if any(isinstance(part, Drawing) for part in turn.parts):
        yield from map(_answer_part, turn.parts)
    elif turn.answer or turn.is_done:
        yield {"role": "assistant", "content": as_text(turn.answer) or "(no words)"}


def _answer_part(part: Part) -> dict[str, Any]:
    """An image with its caption as what is read to those who do not see it; the caption alone where nothing was
    drawn."""
    if isinstance(part, Drawing):
        file = {"path": str(image_file(part.ref)), "alt_text": as_text(part.caption)} if part.ref is not None else None
        return {"role": "assistant", "content": file or as_text(f"[drawing: {part.caption}]")}
    return {"role": "assistant", "content": as_text(part.text if isinstance(part, Text) else "")}


def media_list(session: Session) -> str:
    """HTML: what the model sees and hears in this chat, with notes."""
    items = [attachment for turn in session if turn.problem is None for attachment in turn.attached]
    if not items:
        return "<b>In this chat</b><p class=note>No files yet.</p>"
    lines = []
    for item in items:
        note = f"<div class=note>{_escaped(item.note)}</div>" if item.note else ""
        lines.append(f"<li>{_escaped(item.kind)}: {_escaped(item.path.name)}{note}</li>")
    return f"<b>In this chat</b><ol>{''.join(lines)}</ol>"


def _escaped(words: str) -> str:
    return html.escape(repaired(words))


def _message(message: Any) -> tuple[str, list[str]]:
    """Words and files of the box; over the API, words alone are fine too."""
    if isinstance(message, str):
        return message, []
    return (message or {}).get("text") or "", list((message or {}).get("files") or [])


def _uploads(modalities: Sequence[str]) -> Iterator[str]:
    """Kinds of files that are of use, as gradio names them: MIME types or endings. A model that takes audio alone takes
    the audio of videos too."""
    for one in MODALITIES:
        if one.name in modalities:
            yield from (one.mime,) if one.mime else (f".{ending.split('.')[-1]}" for ending in one.endings.upload)
    if "audio" in modalities and "video" not in modalities:
        yield "video"


def _listed(modalities: Sequence[str]) -> str:
    words = [MODALITIES.plural(kind) for kind in modalities]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
