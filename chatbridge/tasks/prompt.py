"""The prompt of an evaluation question: a conversation up to its last answer, and the room left for a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from chatbridge.common.errors import MediaError
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, Drawing, Message, Part, media_of


def question_of(conversation: Conversation, drop_media: Sequence[str] = ()) -> tuple[Conversation, str]:
    """The conversation before its last answer, without some modalities, and the text of that answer.

    raises  MediaError if the conversation has no answer
    """
    last = max((k for k, message in enumerate(conversation) if message.role == "assistant"), default=0)
    if not last:
        raise MediaError("the conversation has no answer; expected an assistant turn after a question")
    return tuple(_without(message, drop_media) for message in conversation[:last]), conversation[last].text


def _without(message: Message, modalities: Sequence[str]) -> Message:
    """The message without media of these modalities; a drawing keeps its caption."""
    parts: list[Part] = []
    for part in message.parts:
        item = media_of(part)
        if item is None or item.modality not in modalities:
            parts.append(part)
        elif isinstance(part, Drawing):
            parts.append(Drawing(part.caption))
    return replace(message, parts=tuple(parts))


def room_for_answer(layout: Layout, conversation: Conversation) -> int | None:
    """Most new tokens of an answer; None if the language model has no fixed context length.

    raises  MediaError if the prompt leaves no room, ValueError if the template cannot render the conversation
    """
    length = len(layout.prompt(conversation))
    check_room(length, layout.context_length)
    return None if layout.context_length is None else layout.context_length - length


def check_room(length: int, context_length: int | None) -> None:
    """raises MediaError if a prompt of `length` tokens leaves no room for an answer"""
    if context_length is not None and length >= context_length:
        raise MediaError(
            f"prompt needs {length} tokens and leaves no room for an answer: the model's context length is "
            f"{context_length}"
        )
