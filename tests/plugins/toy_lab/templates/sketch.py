"""`Q: ...\\nA: ... {caption}...\\n`: a dialogue whose answers may draw between two tokens of the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Text
from chatbridge.conversation.spans import SpanWriter
from chatbridge.conversation.templates.base import TEMPLATES, Template


@TEMPLATES.register("sketch")
class Sketch(Template):
    @dataclass(frozen=True, kw_only=True)
    class Config(Template.Config):
        opening: str = "{"
        closing: str = "}"
        end: str = "\n"

    config: Config
    can_draw = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.marks: Any = (config.opening, config.closing)  # as text until a tokenizer gives their ids

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.config.end,)

    @property
    def drawing_ids(self) -> tuple[int, int]:
        return self.marks

    def bound(self, tokenizer: Any) -> Template:
        found = Sketch(self.config)
        found.marks = tuple(tokenizer.encode(mark)[0] for mark in self.marks)
        return found

    def write(self, conversation: Conversation, out: SpanWriter, reply: bool) -> None:
        for out.turn, message in enumerate(conversation):
            out.text("A: " if message.role == "assistant" else "Q: ")
            self._parts(message, out)
            out.words(self.config.end, message.is_supervised)
        if reply:
            out.text("A: ")

    def _parts(self, message: Message, out: SpanWriter) -> None:
        opening, closing = self.drawing_ids
        for part in message.parts:
            if isinstance(part, Drawing):
                out.drawing(part, message.is_supervised, (opening,), (closing,))
            elif isinstance(part, Media):
                out.media(part)
            elif isinstance(part, Text):
                out.words(part.text, message.is_supervised)
