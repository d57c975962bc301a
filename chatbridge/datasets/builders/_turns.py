"""Turns {"from": "human" | "gpt" | "system", "value": words} as messages, with their media."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chatbridge.conversation.messages import Media, Message, Part, Text, assistant, user
from chatbridge.conversation.text import MODALITY_MARKERS, remove_markers

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
MARKER = re.compile(rf"\n?<({'|'.join(MODALITY_MARKERS)})>\n?")


def used_turns(turns: Sequence[Mapping[str, Any]], limit: int | None, has_media: bool) -> list[tuple[str, str]]:
    """(role, words) of the first `limit` turns, system ones not counted, from a question to an answer.

    A last question without an answer teaches nothing; without media, neither does an answer that nobody asked for.
    """
    said = [(ROLES[turn["from"]], turn["value"]) for turn in turns]
    system = [turn for turn in said if turn[0] == "system"][:1]
    talk = [turn for turn in said if turn[0] != "system"][:limit]
    while talk and talk[-1][0] == "user":
        talk.pop()
    while talk and talk[0][0] == "assistant" and not has_media:
        talk.pop(0)
    return system + talk if talk else []


def to_messages(turns: Sequence[tuple[str, str]], media: Sequence[Media], is_open: bool) -> tuple[Message, ...]:
    """Several media stand at their markers, when there is one for each; otherwise all stand before the first words.

    is_open   a dialogue that could go on: templates end its answer like one inside a dialogue
    """
    left, at_markers = list(media), _are_placed(turns, media)
    messages: list[Message] = []
    for role, words in turns:
        if role == "assistant":
            if left and not at_markers:
                messages.append(user(*left))
                left = []
            messages.append(Message("assistant", (Text(words),), in_dialogue=is_open))
        elif role == "system":
            messages.append(Message("system", (Text(words),)))
        elif at_markers:
            messages.append(Message("user", tuple(_parts(words, left))))
        else:
            messages.append(user(*left, remove_markers(words)))
            left = []
    return tuple(messages)


def unanswered(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with a last answer that is empty and never learned: the prompt of an evaluation."""
    asked = messages[:-1] if messages and messages[-1].role == "assistant" else messages
    return (*asked, Message("assistant", (Text(""),), supervised=False))


def answered(answer: str | None, *question: str | Part) -> tuple[Message, ...]:
    """One round; without an answer, the prompt of an evaluation."""
    return unanswered([user(*question)]) if answer is None else (user(*question), assistant(answer))


def _are_placed(turns: Sequence[tuple[str, str]], media: Sequence[Media]) -> bool:
    marked = [kind for role, words in turns if role == "user" for kind in MARKER.findall(words)]
    return len(media) > 1 and sorted(marked) == sorted(item.modality for item in media)


def _parts(words: str, left: list[Media]) -> Iterator[Part]:
    """The words of a turn with the next media of the right kind at their markers; takes them out of `left`."""
    pieces = MARKER.split(words)  # words, kind, words, kind, words
    for number, piece in enumerate(pieces):
        if number % 2:
            item = next(item for item in left if item.modality == piece)
            left.remove(item)
            yield item
        elif piece.strip() or len(pieces) == 1:
            yield Text(piece)
