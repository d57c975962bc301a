"""The turns of a record as messages, with their media."""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.conversation.messages import Media, Message, Part, Text, assistant, user
from chatbridge.datasets.builders._media_markers import place_media
from chatbridge.datasets.formats.records import Turn


def to_messages(
    turns: Sequence[Turn],
    media: Sequence[Media] = (),
    limit: int | None = None,
    *,
    in_dialogue: bool,
    is_named_once: bool = False,
    is_open: bool = False,
    has_markers: bool = True,
) -> tuple[Message, ...]:
    """The used turns of a record; `place_media` decides where its media go.

    in_dialogue   a dialogue that could continue: templates end its answer like one inside a dialogue
    is_open       keep the last question: an evaluation asks for its answer
    has_markers   the layout has markers of media; otherwise "<image>" is a word
    raises        MediaError when markers and files of the record do not agree
    """
    parts = place_media(turns, media, is_named_once) if has_markers else {}
    messages: list[Message] = []
    for number in used_turns(turns, limit, bool(media), is_open):
        role, text = turns[number]
        if role == "user":
            messages.append(user(*parts.get(number, (text,))))
        elif role == "system":
            messages.append(Message("system", (Text(text),)))
        else:
            if number in parts:  # a dialogue that opens with an answer about its media
                messages.append(user(*parts[number]))
            messages.append(Message("assistant", (Text(text),), in_dialogue=in_dialogue))
    return tuple(messages)


def used_turns(turns: Sequence[Turn], limit: int | None, has_media: bool, is_open: bool = False) -> list[int]:
    """Numbers of the first `limit` turns, system ones not counted, from a question to an answer.

    A last question without an answer is never supervised; without media, neither is an answer without a question.
    """
    system = [number for number, (role, _) in enumerate(turns) if role == "system"][:1]
    used = [number for number, (role, _) in enumerate(turns) if role != "system"][:limit]
    while used and turns[used[-1]][0] == "user" and not is_open:
        used.pop()
    while used and turns[used[0]][0] == "assistant" and not has_media:
        used.pop(0)
    return system + used if used else []


def unanswered(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with a last answer that is empty and never supervised: the prompt of an evaluation."""
    asked = messages[:-1] if messages and messages[-1].role == "assistant" else messages
    return (*asked, Message("assistant", (Text(""),), supervised=False))


def answered(answer: str | None, *question: str | Part) -> tuple[Message, ...]:
    """One question and its answer; without an answer, the prompt of an evaluation."""
    return unanswered([user(*question)]) if answer is None else (user(*question), assistant(answer))
