"""The chat template of a plan whose tokenizer, which contains the real one, is not on the disk."""

from __future__ import annotations

from chatbridge.conversation.messages import Conversation, Media, Text
from chatbridge.conversation.spans import SpanWriter
from chatbridge.conversation.templates.base import Template

OPENING = " start role :"  # of a message; ChatML's <|im_start|>, role and line break, as words
END = " end"  # ChatML's <|im_end|> and line break


class AssumedChat(Template):
    """As many positions around a message as ChatML (Qwen, SmolLM) needs; Llama 3 and Gemma differ by one or two.

    The words are counted, never shown: a plan needs lengths.
    """

    @property
    def stops(self) -> tuple[str, ...]:
        return (END,)

    def write(self, conversation: Conversation, out: SpanWriter, reply: bool) -> None:
        for turn, message in enumerate(conversation):
            out.turn = turn
            out.words(OPENING, False)
            if message.role == "assistant":
                self.write_answer(message, out, after=END)
                continue
            for part in message.parts:
                if isinstance(part, Media):
                    out.media(part)
                elif isinstance(part, Text):
                    out.words(part.text, message.is_supervised)
            out.words(END, False)
        if reply:
            out.words(OPENING, False)
