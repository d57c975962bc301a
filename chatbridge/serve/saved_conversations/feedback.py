"""Votes on answers, as JSON lines that `records` trains on.

An answer that was voted up is the supervised turn of its line, the turns before it are context. One that was voted down
has `supervised: false`, so `records` leaves the line out and counts it, unless the user wrote a better answer: that one
is supervised in its place. `details.feedback` has the vote and the answer that the model gave.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatbridge.common.safe_files import append_lines, replace_text
from chatbridge.common.text_repair import repaired
from chatbridge.conversation.messages import Message, assistant
from chatbridge.serve.saved_conversations.conversation_file import (
    SaveError,
    as_line,
    conversation_lines,
    media_folder,
    one_writer,
    save_errors,
)
from chatbridge.serve.saved_conversations.session_record import is_answered, written
from chatbridge.serve.saved_conversations.stored_media import StoredMedia
from chatbridge.serve.session import ChatTurn, Session

KEY = "feedback"  # of `details`


class Feedback:
    """The file of the votes, and FILE.media with copies of the media. Any number of threads and processes may vote."""

    def __init__(self, file: Path) -> None:
        """raises ValueError for a name that is not of JSON lines"""
        if file.suffix.lower() != ".jsonl":
            raise ValueError(f"{file.name}: votes are JSON lines; name it {file.with_suffix('.jsonl').name}")
        self.file = file.expanduser()

    def add(
        self, id: str, session: Session, number: int, is_good: bool, better: str = "", about: Sequence[str] = ()
    ) -> str:
        """Write a vote; another vote on the same answer is replaced. Returns a message for the user.

        id       of the conversation, see `new_id`
        number   of the turn, from 0
        better   what the answer should have been, where the user wrote it
        about    lines about the model
        raises   SaveError
        """
        turn = _turn(session, number)
        better = repaired(better).strip()
        if is_good and better:
            raise SaveError("a better answer belongs to a vote against the answer")
        if not (better or turn.display.strip()):
            raise SaveError("the answer is empty; `records` would refuse a file with such a line")
        with save_errors(self.file):
            record = self._record(id, session[: number + 1], turn, is_good, better, about)
            self._replace(record["id"], as_line(record))
        return f"your vote is in {self.file.name}; thank you"

    def remove(self, id: str, session: Session, number: int) -> str:
        """Take a vote back. raises SaveError"""
        with save_errors(self.file):
            was_there = self._replace(vote_id(id, _turn(session, number), number), None)
        return "your vote was removed" if was_there else "there was no vote"

    def _record(
        self, id: str, session: Session, turn: ChatTurn, is_good: bool, better: str, about: Sequence[str]
    ) -> dict[str, Any]:
        messages: list[Message] = []
        for one in session:
            messages += one.before
            if is_answered(one):
                messages += [one.question, replace(one.reply, supervised=False)]
        given = messages[-1]
        messages[-1] = assistant(better) if better else replace(given, supervised=None if is_good else False)
        media = StoredMedia(media_folder(self.file), self.file.parent)
        vote = {"vote": "up" if is_good else "down", "answer": turn.display, "time": _now()}
        vote |= {"better": better} if better else {}
        vote |= {"model": list(about)} if about else {}
        name = vote_id(id, turn, len(session) - 1)
        return {"id": name, "messages": written(messages, session, media), "details": {KEY: vote}}

    def _replace(self, name: str, line: str | None) -> bool:
        """Put a line in the place of the one with the same id; whether there was one. A new line is appended."""
        mark = json.dumps(name, ensure_ascii=False)
        with one_writer(self.file):
            if line and self._is_new(mark):
                append_lines(self.file, [line])
                return False
            lines, _ = conversation_lines(self.file)
            others = [one for one in lines if mark not in one or json.loads(one).get("id") != name]
            replace_text(self.file, "".join(f"{one}\n" for one in [*others, *([line] if line else [])]))
        return len(others) < len(lines)

    def _is_new(self, mark: str) -> bool:
        """Whether a line may simply be appended: the file has whole lines of conversations, and none with this id. Only
        its first line is parsed, so that a vote costs no more in a long file."""
        content = self.file.read_bytes() if self.file.exists() else b""
        first, _, _ = content.partition(b"\n")
        is_ours = first.startswith(b'{"id": "') and b'"messages"' in first
        return not content or (is_ours and content.endswith(b"\n") and mark.encode() not in content)


def vote_id(id: str, turn: ChatTurn, number: int) -> str:
    """The id of a vote: it changes with the answer, which another one replaces after a retry."""
    digest = hashlib.sha256(f"{turn.text}\0{turn.display}".encode("utf-8", "replace")).hexdigest()[:8]
    return f"{id}-{number}-{digest}"


def _turn(session: Session, number: int) -> ChatTurn:
    if not 0 <= number < len(session) or not is_answered(session[number]):
        raise SaveError("there is no answer to vote on")
    return session[number]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


__all__ = ["Feedback", "vote_id"]
