"""A chat as one line of `records`, and the other way round."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from chatbridge.conversation.messages import Media, Message
from chatbridge.conversation.text_cleaning import find_markers
from chatbridge.datasets.formats.record_messages import written_messages
from chatbridge.serve.saved_conversations.stored_media import StoredMedia, origins_of
from chatbridge.serve.session import STOPPED, ChatTurn, Session

KEY = "chat"  # of `details`: what the turns of a chat have beside their messages


def new_id() -> str:
    """A name for a new conversation, unique on any number of machines: "chat-20261130-225001-9c41e2"."""
    return f"chat-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def answered_turns(session: Session) -> tuple[ChatTurn, ...]:
    """The turns that have an answer."""
    return tuple(turn for turn in session if is_answered(turn))


def is_answered(turn: ChatTurn) -> bool:
    """Whether a turn has an answer, or as much of one as there was when it was stopped."""
    return turn.problem is None and (turn.is_done or bool(turn.answer or turn.parts))


def record_of_session(session: Session, name: str, media: StoredMedia, about: Sequence[str] = ()) -> dict[str, Any]:
    """A line of `records`: every answered turn. An answer that was stopped, or reached the longest length, is not
    supervised: nobody wants it imitated, unless no other answer is there.

    media    stores the files; raises CannotStore
    """
    turns = answered_turns(session)
    is_whole = [turn.is_done and not turn.is_cut and not _was_stopped(turn) for turn in turns]
    supervised = iter([None if whole or not any(is_whole) else False for whole in is_whole])
    messages: list[Message] = []
    for turn in session:
        messages += turn.before
        if is_answered(turn):
            messages += [turn.question, replace(turn.reply, supervised=next(supervised))]
    about_turns = [
        {"tokens": turn.num_tokens, "is_complete": whole, **({"notes": list(turn.notes)} if turn.notes else {})}
        for turn, whole in zip(turns, is_whole, strict=True)
    ]
    details = {KEY: {"turns": about_turns, **({"model": list(about)} if about else {})}}
    return {"id": name, "messages": written(messages, session, media), "details": details}


def written(messages: Sequence[Message], session: Session, media: StoredMedia) -> list[dict[str, Any]]:
    """The `messages` of a line; the files of the session are stored. raises CannotStore"""
    origins = origins_of(attachment for turn in session for attachment in turn.attached)

    def name_of(item: Media) -> str:
        return media.name_of(item, origins.get(id(item.ref)))

    lines = written_messages(tuple(messages), name_of)
    for line, message in zip(lines, messages, strict=True):
        if message.role == "user" and find_markers(message.text):
            line["plain"] = True  # a person wrote "<image>"
    return lines


def _was_stopped(turn: ChatTurn) -> bool:
    return STOPPED in turn.notes


__all__ = ["KEY", "answered_turns", "is_answered", "new_id", "record_of_session", "written"]
