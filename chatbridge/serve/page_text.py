"""What the page of a chat shows is text: nothing typed, uploaded or generated becomes markup or loads a file."""

from __future__ import annotations

import html
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from chatbridge.common.text_repair import repaired

MARKUP = re.compile(r"<[a-zA-Z/!?]|&[#\w]")  # where HTML begins a tag or an entity; "2 < 3" and "R & D" are none
# The second wall, should a component of gradio show a value as markup: a browser loads nothing from elsewhere. Scripts
# and styles of gradio's page are inline; recordings and previews are blob: and data: addresses.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
    "form-action 'self'; base-uri 'self'; object-src 'none'"
)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


def as_text(words: str) -> str:
    """Words for a component that reads HTML, and no Markdown: shown letter by letter.

    Words that hold nothing like a tag or an entity come back as they are, so that copying gives what was written.
    """
    words = repaired(words)
    return html.escape(words, quote=False) if MARKUP.search(words) else words


class SamePlaceOnly:
    """ASGI middleware: every answer carries `POLICY`."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Scope) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy)
