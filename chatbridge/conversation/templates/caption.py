"""Media, then their caption: `<bos> media caption end`. The format of ChatBridge's first stage; no prompt, no roles."""

from __future__ import annotations

from dataclasses import dataclass

from chatbridge.conversation.messages import Conversation, Media, Text
from chatbridge.conversation.spans import SpanWriter
from chatbridge.conversation.templates.base import TEMPLATES, Template


@TEMPLATES.register("caption")
class Caption(Template):
    """All parts in reading order and without roles; the assistant's text is supervised together with the end symbol.

    A caption longer than `max_tokens` loses its end symbol with its tail (as in the reference): stopping in the middle
    of a sentence is not supervised. The cut is counted. Unlike the reference, media of several modalities all appear
    (its stage 1 silently used the image only), and a target equal to the padding id is supervised like any other.
    Source: joez17/ChatBridge, stage 1; golden multis_chatbridge.json, stage1_batches.
    """

    config: Config

    @dataclass(frozen=True, kw_only=True)
    class Config(Template.Config):
        end_sym: str = "\n"  # follows every caption and ends a generated one
        max_tokens: int = 32  # of one caption, end symbol included

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.config.end_sym,) if self.config.end_sym else ()

    def write(self, conversation: Conversation, out: SpanWriter, reply: bool) -> None:
        for turn, message in enumerate(conversation):
            out.turn = turn
            if message.role == "assistant":
                self.write_answer(message, out, after=self.config.end_sym, max_tokens=self.config.max_tokens)
                continue
            for part in message.parts:
                if isinstance(part, Media):
                    out.media(part)
                elif isinstance(part, Text):
                    out.words(part.text, message.is_supervised)
