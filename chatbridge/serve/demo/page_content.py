"""What the demo's page shows of a chat: messages and images. All of it is text or our own files.

Nothing typed, uploaded or generated becomes markup or loads a file.
"""

from __future__ import annotations

import html
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from chatbridge.common.text_repair import repaired
from chatbridge.conversation.messages import Drawing, Part, Text
from chatbridge.processors.png_file import png_of
from chatbridge.serve.demo.chat_state import STOPPED_EMPTY
from chatbridge.serve.session import ChatTurn, Session
from chatbridge.serve.uploads.upload_parts import digest_of

MARKUP = re.compile(r"<[a-zA-Z/!?]|&[#\w]")  # beginnings of an HTML tag or entity; "2 < 3" and "R & D" have none
# A second defence, should a gradio component render a value as markup: the browser loads nothing from other servers.
# Scripts and styles of gradio's page are inline; recordings and previews are blob: and data: addresses.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
    "form-action 'self'; base-uri 'self'; object-src 'none'"
)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


def messages_of(session: Session) -> list[dict[str, Any]]:
    """A session as gradio's messages: files, text, notes and problems."""
    return [message for turn in session for message in _messages(turn)]


def number_of(session: Session, index: int) -> int:
    """Which turn, counted from 0, the message at this index of `messages_of` belongs to; the last one beyond the end"""
    end = 0
    for number, turn in enumerate(session):
        end += sum(1 for _ in _messages(turn))
        if index < end:
            return number
    return max(len(session) - 1, 0)


def _messages(turn: ChatTurn) -> Iterator[dict[str, Any]]:
    for attachment in turn.attached:
        yield {"role": "user", "content": {"path": str(attachment.path), "alt_text": as_text(attachment.kind)}}
    if turn.text:
        yield {"role": "user", "content": as_text(turn.text)}
    if turn.problem is not None:
        lead = "Note: " if turn.problem == STOPPED_EMPTY else "Cannot answer: "
        yield {"role": "assistant", "content": as_text(lead + turn.problem)}
        return
    for note in turn.notes:
        yield {"role": "assistant", "content": as_text(f"Note: {note}")}
    if any(isinstance(part, Drawing) for part in turn.parts):
        yield from (message for part in turn.parts for message in _answer_part(part))
    elif turn.answer or turn.is_done:
        yield {"role": "assistant", "content": as_text(turn.answer) or "(empty answer)"}
    if turn.rendering is not None:
        share = f" ({turn.rendered:.0%})" if turn.rendered else ""
        yield {"role": "assistant", "content": as_text(f"Drawing: {turn.rendering} ...{share}")}


def _answer_part(part: Part) -> Iterator[dict[str, Any]]:
    """A drawing is its image with the caption below, or the caption in brackets if no image was rendered."""
    if not isinstance(part, Drawing):
        yield {"role": "assistant", "content": as_text(part.text if isinstance(part, Text) else "")}
    elif not isinstance(part.ref, Tensor):
        yield {"role": "assistant", "content": as_text(f"[drawing: {part.caption}]")}
    else:
        file = {"path": str(image_file(part.ref)), "alt_text": as_text(part.caption)}
        yield {"role": "assistant", "content": file}
        yield {"role": "assistant", "content": as_text(f"Drawn: {part.caption}")}


def image_file(image: Tensor) -> Path:
    """A PNG file of an image, uint8[3, H, W]. Equal images are one file; the process removes all when it ends."""
    name = digest_of(image).hex()
    path = Path(_image_folder().name) / f"{name}.png"
    if not path.exists():
        path.write_bytes(png_of(image))
    return path


@cache
def _image_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="chatbridge_drawn_")


def as_text(text: str) -> str:
    """Text for a component that renders HTML but no Markdown, so that it appears as written.

    Text without anything like a tag or an entity stays unchanged, so copying it from the page gives the original.
    """
    text = repaired(text)
    return html.escape(text, quote=False) if MARKUP.search(text) else text


class ContentPolicy:
    """ASGI middleware that adds `POLICY` to every response."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Scope) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy)
