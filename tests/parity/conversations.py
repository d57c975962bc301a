"""Typed conversations that correspond to the strings of the reference."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from chatbridge.conversation.messages import Conversation, Media, Message, Text
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.templates.base import Template
from chatbridge.conversation.text_cleaning import without_markers

GIVEN = {
    "###Human: Given following image: <query>.": ("image",),
    "###Human: Given following video: <query>.": ("video",),
    "###Human: Given following audio: <query>.": ("audio",),
    "###Human: Given following video: <query> and its background audio: <query>.": ("video", "audio"),
}
FOREIGN = (
    "strings that are not a conversation with media first (free text around a placeholder, an answer without end, "
    "text after the last answer): typed data cannot express them"
)


class Read(NamedTuple):
    """A string of the reference as typed data, with the template that writes exactly this string."""

    conversation: Conversation
    template: Template
    is_prompt: bool  # the assistant's turn is open


def read_string(string: str) -> Read | None:
    """Return the typed conversation that is rendered as this string; None if there is none."""
    start = string.find(".###") + 1
    media, rest = GIVEN.get(string[:start]), string[start:].removeprefix("###")
    if media is None:
        return None
    turns = re.findall(r"(Human: |Assistant:)(.*?)(\n?###|$)", rest, flags=re.S)
    words = [Message("user" if speaker == "Human: " else "assistant", (Text(text),)) for speaker, text, _ in turns]
    if not words or words[0].role != "user":
        return None
    is_prompt = words[-1].role == "assistant" and not words[-1].text
    conversation = opened_by(media, words[: len(words) - is_prompt])
    template = build_template("vicuna_v0", single_gap="\n" if string.endswith("\n###") else "")
    written = template.render(conversation, reply=is_prompt)
    return Read(conversation, template, is_prompt) if written == string else None


def opened_by(media: Sequence[str], words: Sequence[Message]) -> Conversation:
    """Return the messages with the media before the text of the first one."""
    front = tuple(Media(name, f"{name}.bin") for name in media)
    return (Message("user", front + words[0].parts), *words[1:])


def answered(annotation: Mapping[str, Any], task: str, prompt: str | None) -> Conversation:
    """A MULTIS annotation as the reference's data set reads it, with one prompt of its task."""
    modalities = {"ti": ("image",), "tv": ("video",), "ta": ("audio",), "tva": ("video", "audio")}[task.split("-")[0]]
    turns = [without_markers(turn["value"]) for turn in annotation.get("conversations", ())[:8]]
    if not turns:
        first = {
            key: value[0] if isinstance(value, list) and key != "text" else value for key, value in annotation.items()
        }
        written = first.get("text")
        answer = first.get("desc") or first.get("caption") or first.get("answer") or ", ".join(written or ())
        turns = [(prompt or "").replace("<QUESTION>", first.get("question", "")), answer]
    talks = task.endswith("-conv")
    words = [
        Message("assistant", (Text(turn),), in_dialogue=talks) if i % 2 else Message("user", (Text(turn),))
        for i, turn in enumerate(turns)
    ]
    return opened_by(modalities, words)


def chatted(messages: Sequence[Sequence[str | None]]) -> Conversation | None:
    """Convert the demo's list of [role, text]: media have a message of their own; the last message is open."""
    first = messages[0][1] or ""
    media = GIVEN.get("###Human: " + first.replace("<ImageHere>", "<query>"))
    rest = [(role, said) for role, said in messages[1:] if said is not None]
    if media is None or not rest:
        return None
    words = [Message("user" if role == "Human" else "assistant", (Text(said),)) for role, said in rest]
    return opened_by(media, words)
