"""One conversation with a model, step by step: attach, ask, retry, undo, save, load. A terminal keeps one."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from chatbridge.conversation.messages import Message
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.answer_options import changed
from chatbridge.models.language.generate_options import MOST_SEED
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.media_refs import MediaRef, attached
from chatbridge.serve.request import PLAIN, RequestSettings
from chatbridge.serve.saved_conversations.conversation_file import Loaded, Saved, load, new_id, save, save_zip
from chatbridge.serve.session import ChatTurn, Session, ask
from chatbridge.serve.uploads.upload_parts import Attachment


class Dialogue:
    """The turns of one conversation, the files for its next question, and its generation settings.

    options   of the next answer; with a seed, the k-th answer of this dialogue uses seed + k
    folder    where downloads are stored
    settings  stop strings and the time limit of every answer
    id        of the conversation in saved files
    """

    def __init__(
        self,
        engine: ChatEngine,
        folder: Path,
        options: GenerateOptions | None = None,
        settings: RequestSettings = PLAIN,
    ) -> None:
        self.engine, self.folder, self.settings = engine, folder, settings
        self.options = options or engine.generation
        self.id = new_id()
        self.turns: Session = ()
        self.pending: tuple[Attachment, ...] = ()
        self._num_asked, self._is_stopped = 0, False
        self._before: tuple[Message, ...] = ()

    def attach(self, media: MediaRef) -> Attachment:
        """Add a file to the next question. raises MediaError with a message for the user"""
        found = attached(self.engine, media, self.folder)
        self.pending += (found,)
        return found

    def ask(self, text: str) -> Generator[ChatTurn]:
        """The turn of a question about the pending files, repeatedly while its answer grows.

        `stop`, or closing the iterator, ends the answer; what was generated stays in the conversation. Empty text
        without files yields nothing.
        """
        files, self.pending = self.pending, ()
        yield from self._ask(text, files)

    def retry(self) -> Generator[ChatTurn]:
        """Another answer to the last question; yields nothing without one."""
        if (last := self.undo()) is not None:
            yield from self._ask(last.text, last.attached, last)

    def stop(self) -> None:
        """End the present answer before its next token; a signal handler or another thread may call it."""
        self._is_stopped = True

    def undo(self) -> ChatTurn | None:
        """Remove the last question with its answer; None if there is none."""
        if not self.turns:
            return None
        *earlier, last = self.turns
        self.turns = tuple(earlier)
        self._before = last.before  # a system message outlives the question after it
        return last

    def reset(self) -> None:
        """Begin a new conversation with the same settings."""
        self.turns, self.pending, self._before = (), (), ()
        self.id = new_id()

    def save(self, file: Path, media: Literal["copy", "link"] = "copy") -> Saved:
        """Write the conversation, see `conversation_file.save`; a .zip holds its media too. raises SaveError"""
        about = self.engine.about
        if file.suffix.lower() == ".zip":
            return save_zip(self.turns, file.expanduser(), self.id, about)
        return save(self.turns, file, self.id, about, media)

    def load(self, file: Path, which: str | None = None) -> Loaded:
        """Continue from a saved conversation in place of this one. raises LoadError, and then nothing has changed"""
        found = load(self.engine, file, which, self.folder)
        self.reset()
        self.turns, self.id = found.session, found.id
        return found

    def set(self, settings: Mapping[str, Any]) -> None:
        """Replace generation settings. raises TypeError or ValueError as `answer_options.changed`"""
        self.options = changed(self.options, settings)

    def _ask(self, text: str, files: tuple[Attachment, ...], again: ChatTurn | None = None) -> Generator[ChatTurn]:
        options, self._num_asked, self._is_stopped = self._seeded(), self._num_asked + 1, False
        if again is None and self._before:
            again = ChatTurn(text, form=self.engine.question_form, before=self._before)
        self._before = ()
        turns = ask(self.engine, self.turns, text, files, options, lambda: self._is_stopped, again, self.settings)
        with closing(turns) as sessions:
            for session in sessions:
                self.turns = session
                yield session[-1]

    def _seeded(self) -> GenerateOptions:
        if self.options.seed is None:
            return self.options
        return replace(self.options, seed=(self.options.seed + self._num_asked) % MOST_SEED)


def record_of(turn: ChatTurn, drawings: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """A turn as plain values for JSON: prompt, media, and answer, tokens, is_complete, or problem; notes if any.

    drawings      of the answer, see `DrawnFiles`; there is no such key without any

    is_complete   False for an answer that was stopped, or ended at the longest length
    """
    media = [
        {"modality": item.modality, "file": attachment.address or str(attachment.path)}
        for attachment in turn.attached
        for item in attachment.media
    ]
    record: dict[str, Any] = {"prompt": turn.text, "media": media}
    if turn.problem is not None:
        record["problem"] = turn.problem
    else:
        record |= {"answer": turn.display, "tokens": turn.num_tokens, "is_complete": turn.is_done and not turn.is_cut}
    record |= {"drawings": [dict(one) for one in drawings]} if drawings else {}
    return record | ({"notes": list(turn.notes)} if turn.notes else {})
