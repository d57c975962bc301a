"""What leaves the page and comes back to it: saved conversations, and votes on answers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from chatbridge.serve.demo.answering import Side
from chatbridge.serve.demo.chat_state import Chat, Question
from chatbridge.serve.saved_conversations.conversation_file import Loaded, LoadError, SaveError, load, new_id, save
from chatbridge.serve.saved_conversations.feedback import Feedback
from chatbridge.serve.saved_conversations.zipped_conversation import CONVERSATION, write_zip
from chatbridge.serve.session import ChatTurn

LEFT, RIGHT = "-left", "-right"  # ends of the ids of two models' conversations about the same questions


@dataclass(frozen=True)
class KeptChats:
    """Saves, loads and votes.

    folder     of files that the browser downloads, and of media of loaded conversations
    feedback   where votes are written; None: there are none
    """

    sides: Sequence[Side]
    folder: Path
    feedback: Feedback | None = None

    def id_of(self, chat: Chat, side: int) -> str:
        """The id of one model's conversation."""
        return chat.id if len(self.sides) == 1 else chat.id + (LEFT, RIGHT)[side]

    def save(self, chat: Chat) -> tuple[Path, tuple[str, ...]]:
        """A .zip with the conversation of every model as JSON lines and the media of all; notes for the user.

        raises   SaveError
        """
        notes: dict[str, None] = {}
        folder = Path(tempfile.mkdtemp(prefix="saved_", dir=self._root()))
        with tempfile.TemporaryDirectory(prefix="chatbridge_save_") as scratch:
            for at, side in enumerate(self.sides):
                saved = save(chat.session(at), Path(scratch) / CONVERSATION, self.id_of(chat, at), side.engine.about)
                notes |= dict.fromkeys(saved.notes)
            file = folder / f"{chat.id}.zip"
            try:
                write_zip(Path(scratch), file)
            except OSError as error:
                raise SaveError(f"the file cannot be written: {error.strerror or error}") from None
        return file, tuple(notes)

    def load(self, file: Path) -> tuple[Chat, tuple[str, ...]]:
        """The chat of a file that the browser uploads; notes for the user.

        Only media within the file are read, never files that it names on this machine.
        raises   LoadError
        """
        found = [self._loaded(side, file, at) for at, side in enumerate(self.sides)]
        count = min(len(one.session) for one in found)
        rows = zip(*(one.session[:count] for one in found), strict=True)
        chat = Chat(tuple(map(_question, rows)), new_id())
        return chat, tuple(dict.fromkeys(note for one in found for note in one.notes))

    def vote(self, chat: Chat, side: int, number: int, is_good: bool | None) -> str:
        """Write a vote on an answer, or with None take it back; the message for the user."""
        if self.feedback is None:
            return "votes are not written"
        session, name = chat.session(side), self.id_of(chat, side)
        try:
            if is_good is None:
                return self.feedback.remove(name, session, number)
            return self.feedback.add(name, session, number, is_good, about=self.sides[side].engine.about)
        except SaveError as error:
            return f"the vote was not written: {error}"

    def _loaded(self, side: Side, file: Path, at: int) -> Loaded:
        found = self._read(side, file, None)
        pair = (LEFT, RIGHT)[at]
        with suppress(LoadError):
            if found.id.endswith((LEFT, RIGHT)) and not found.id.endswith(pair):
                found = self._read(side, file, found.id.removesuffix(LEFT).removesuffix(RIGHT) + pair)
        if not found.session:
            raise LoadError("the conversation has no question")
        return found

    def _read(self, side: Side, file: Path, which: str | None) -> Loaded:
        folder = Path(tempfile.mkdtemp(prefix="loaded_", dir=self._root()))
        return load(side.engine, file, which, folder, is_trusted=False)

    def _root(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder


def _question(turns: Sequence[ChatTurn]) -> Question:
    first = turns[0]
    return Question(first.text, tuple(one.path for one in first.attached), tuple(turns))


def with_id(chat: Chat) -> Chat:
    """The chat with an id."""
    return chat if chat.id else replace(chat, id=new_id())


__all__ = ["KeptChats", "with_id"]
