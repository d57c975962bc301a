"""`USER: ... ASSISTANT: ...</s>`: ChatBind over Vicuna v1.1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from chatbridge.conversation.messages import Conversation, Message, Text
from chatbridge.conversation.spans import Encode, Span, SpanWriter, TextSpan
from chatbridge.conversation.templates._chatbind_formats import CURIOUS_USER, EOS
from chatbridge.conversation.templates._chatbind_fragments import Fragments, size_of
from chatbridge.conversation.templates._chatbind_template import ChatbindTemplate, split_system
from chatbridge.conversation.templates.base import TEMPLATES

ANSWER = " ASSISTANT: "
LABELS = {"user": "USER", "assistant": "ASSISTANT", "system": "SYSTEM"}


@TEMPLATES.register("chatbind_v1")
class ChatbindV1(ChatbindTemplate):
    """Supervised are each answer, the blank before it, and the token `</s>` after it.

    `labels: released` does the same by counting tokens of pieces. It drops turns before the first question, and refuses
    a conversation whose pieces have other tokens than the whole, where the reference masked everything and printed a
    warning: one that ends with a question, text that contains " ASSISTANT: ", or an unknown token, which is its padding
    too.

    Deviations from the reference, on purpose:
    - all images of a sample survive (the reference keeps the last one only);
    - text that reads like `</s>` stays text.
    Sources: dreamerlin/chatbind, train.py and run_chatbind; goldens chatbind_labels, chatbind_templates.
    """

    config: Config
    automatic = "llava_v1"

    @dataclass(frozen=True, kw_only=True)
    class Config(ChatbindTemplate.Config):
        training_system: str = CURIOUS_USER  # before the first turn of a training sequence

    def _write_training(self, conversation: Conversation, fragments: Fragments, reply: bool) -> None:
        own, turns = self._turns(conversation)
        fragments.text((self.config.training_system if own is None else own) + " ")
        for turn, message in turns:
            fragments.turn = turn
            if message.role == "assistant":
                supervised = message.is_supervised and not reply
                fragments.text("ASSISTANT:")
                fragments.text(" ", supervised)
                fragments.parts(message, supervised)
                fragments.strings(EOS, supervised)
            else:
                self._write_asked(message, fragments)
        if reply:
            fragments.text("ASSISTANT:")

    def _write_asked(self, message: Message, fragments: Fragments) -> None:
        fragments.text(f"{LABELS[message.role]}: ")
        fragments.parts(message, message.is_supervised)
        fragments.text(" ")

    def _turns(self, conversation: Conversation) -> tuple[str | None, list[tuple[int, Message]]]:
        """The system text and the turns; the released rule begins with a question."""
        own, turns = split_system(conversation)
        while self.config.labels == "released" and turns and turns[0][1].role == "assistant":
            turns.pop(0)
        return own, turns

    def _released_flags(
        self, conversation: Conversation, spans: list[Span], encode: Encode, lengths: Mapping[str, int]
    ) -> list[bool]:
        """A round's question up to "ASSISTANT:" is counted alone; the rest of the round is supervised."""
        own, turns = self._turns(conversation)
        self._check_pieces([message for _, message in turns], spans)
        fragments, flags, is_label = self._fragments(), [], False
        fragments.text((self.config.training_system if own is None else own) + " ")
        ends = self._ends(spans)
        for _, message in turns:
            if message.role != "assistant":
                self._write_asked(message, fragments)
                is_label = f" {_raw(message)}".endswith(ANSWER.rstrip())  # the reference takes it for the next one
                continue
            if not is_label:
                fragments.text("ASSISTANT: ")
            asked = size_of(fragments, SpanWriter(encode, lengths)) - 1  # the blank belongs to the answer
            end = next(ends, len(flags))
            flags += [False] * asked
            flags += [message.supervised is not False] * (end - len(flags))
            fragments = self._fragments()
        return flags + [False] * (sum(span.length for span in spans) - len(flags))

    def _ends(self, spans: list[Span]) -> Iterator[int]:
        """Positions after each </s>."""
        position, eos = 0, self._ids.get(EOS)
        for span in spans:
            position += span.length
            if isinstance(span, TextSpan) and span.ids == (eos,):
                yield position

    def _check_pieces(self, turns: Sequence[Message], spans: list[Span]) -> None:
        """raises   ValueError when the reference masks the whole conversation"""
        if turns and turns[-1].role != "assistant":
            raise ValueError("the released label rule masks a conversation that ends with a question")
        asked = ""
        for message in turns:
            asked += f"{LABELS[message.role]}: {_raw(message)} "
            if message.role != "assistant":
                continue
            if len(asked[:-1].split(ANSWER)) != 2:
                break
            asked = ""
        if asked:
            raise ValueError(f"the released label rule masks a conversation whose text contains {ANSWER.strip()!r}")
        if any(self._unknown in span.ids for span in spans if isinstance(span, TextSpan)):
            message = "the released label rule masks a conversation with an unknown token, which is its padding too"
            raise ValueError(message)


def _raw(message: Message) -> str:
    """The text of a message with a character in place of each media item."""
    return "".join(part.text if isinstance(part, Text) else "\0" for part in message.parts)
