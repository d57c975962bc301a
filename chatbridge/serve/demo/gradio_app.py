"""The demo's page: a chat with a model about images, videos, audio and the modalities of plugins."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from chatbridge.common.extras import need
from chatbridge.common.text_repair import repaired
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.models.language import GenerateOptions
from chatbridge.processors.limits import MB, ChatLimits
from chatbridge.serve.demo.examples import DemoExample
from chatbridge.serve.demo.page_content import ContentPolicy, media_list, messages_of
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.session import ChatTurn, Session, ask

TITLE = "ChatBridge"
QUEUE_SIZE = 64  # waiting questions; a further one gets the message that the server is busy
UNNUMBERED = "Ask, and attach files with the paper clip"
NUMBERED = f"{UNNUMBERED}; [1] in the text is the place of the first file, [2] that of the second"
UPLOAD_LIFETIME_S = 24 * 3600
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


def build_app(engine: ChatEngine, examples: Sequence[DemoExample] = (), title: str = TITLE) -> Any:
    """A gradio Blocks. Its API has /chat (message, temperature, max_tokens), which streams, and /clear.

    All content is shown as text, see `page_content`. Over the API, text with markup has entities (`&lt;`).
    """
    gr: Any = need("gradio", "the demo")
    default = engine.generation
    cleanup = (3600, UPLOAD_LIFETIME_S)  # every hour, of uploads older than a day
    with gr.Blocks(title=title, analytics_enabled=False, fill_height=True, delete_cache=cleanup) as app:
        session = gr.State(())
        about = html.escape(f"Talk about {_listed(engine.modalities)}." if engine.modalities else "Text only.")
        gr.HTML(f"<h1>{html.escape(title)}</h1><p>{about}</p>", elem_id="head")
        with gr.Row():
            with gr.Column(scale=3, min_width=240):
                chat = gr.Chatbot(
                    elem_id="chat", height="62vh", min_height=320, show_label=False, render_markdown=False,
                    sanitize_html=True, feedback_options=None, buttons=["copy"],
                    placeholder="Attach files with the paper clip below, and ask about them.",
                )  # fmt: skip
                box = gr.MultimodalTextbox(
                    show_label=False, file_count="multiple", file_types=list(_uploads(engine.modalities)),
                    sources=["upload", "microphone"] if "audio" in engine.modalities else ["upload"],
                    placeholder=NUMBERED if engine.question_form.numbered else UNNUMBERED,
                    stop_btn=True, autofocus=True,
                )  # fmt: skip
                if examples:
                    values = [[{"text": repaired(one.text), "files": list(map(str, one.files))}] for one in examples]
                    gr.Examples(values, [box], label="Examples: choose one, then send", examples_per_page=6)
            with gr.Column(scale=1, min_width=220):
                media = gr.HTML(media_list(()), elem_id="media")
                clear = gr.Button("Clear the chat", variant="secondary")
                with gr.Accordion("Sampling", open=True):
                    start, length = default.temperature if default.sample else 0, default.max_new_tokens
                    temperature = gr.Slider(0, 1.5, start, step=0.05, label="Temperature", info="0: greedy")
                    longest = max(1024, length)
                    max_tokens = gr.Slider(1, longest, length, step=1, label="Maximum length", info="tokens")
                with gr.Accordion("This model", open=False):
                    about = repaired("\n".join(engine.about))
                    gr.Textbox(about, show_label=False, lines=6, max_lines=14, interactive=False)

        def chat_turn(message: Any, temperature: float, max_tokens: float, session: Session) -> Iterator[tuple]:
            text, files = _message(message)
            empty = {"text": "", "files": []}
            yield empty, messages_of(session), media_list(session), session
            try:
                options = options_of(temperature, max_tokens, default)
            except (TypeError, ValueError) as error:  # only over the API: the sliders keep their ranges
                refused = (*session, ChatTurn(repaired(text), problem=str(error)))
                yield empty, messages_of(refused), media_list(refused), refused
                return
            for grown in ask(engine, session, text, files, options):
                yield empty, messages_of(grown), media_list(grown), grown

        answering = box.submit(
            chat_turn, [box, temperature, max_tokens, session], [box, chat, media, session],
            api_name="chat", concurrency_limit=4, show_progress="hidden",
        )  # fmt: skip
        box.stop(None, cancels=[answering])
        cleared = ({"text": "", "files": []}, [], media_list(()), ())
        for event, name in ((clear.click, "clear"), (chat.clear, False)):  # the button, and the bin icon of the chat
            event(lambda: cleared, None, [box, chat, media, session], api_name=name, cancels=[answering], queue=False)
    return app.queue(max_size=QUEUE_SIZE)


def launch(
    app: Any,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    block: bool = True,
    max_file_mb: float = ChatLimits.max_file_mb,
) -> Any:
    """Serve a page until Ctrl-C, or with `block` False until `app.close()`. It loads no font or script from elsewhere.

    max_file_mb   larger files are refused during their upload
    raises   OSError if the port is in use, ValueError if this machine cannot reach its own page (a proxy)
    """
    gr: Any = need("gradio", "the demo")
    from starlette.middleware import Middleware

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    settings = {
        "server_name": host, "server_port": port, "share": share, "prevent_thread_lock": not block, "quiet": not block,
        "max_file_size": int(max_file_mb * MB),
        "theme": gr.themes.Soft(primary_hue="teal", secondary_hue="teal", **fonts),
        "css": CSS, "ssr_mode": False, "pwa": False, "app_kwargs": {"middleware": [Middleware(ContentPolicy)]},
    }  # fmt: skip
    try:
        return app.launch(**settings)
    except ValueError:  # gradio requests its page once and waits 3 s, too short for the first request on a busy machine
        app.close()
        return app.launch(**settings)


def options_of(temperature: float, max_tokens: float, default: GenerateOptions | None = None) -> GenerateOptions:
    """Options from the sliders; temperature 0 is greedy.

    default   the other settings; where it does not sample, sampling has top_p 0.95
    """
    default = default or GenerateOptions()
    tokens = int(max_tokens)
    default = replace(default, max_new_tokens=tokens, min_new_tokens=min(default.min_new_tokens, max(tokens, 1)))
    if temperature <= 0:
        return replace(default, sample=False, temperature=1.0, top_p=1.0, top_k=0)
    return replace(default, sample=True, temperature=temperature, top_p=default.top_p if default.sample else 0.95)


def _message(message: Any) -> tuple[str, list[str]]:
    """Text and files of the input box; over the API, a message may also be a string."""
    if isinstance(message, str):
        return message, []
    return (message or {}).get("text") or "", list((message or {}).get("files") or [])


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
