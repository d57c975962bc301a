"""What the events of the page do: values of its components in, values of its components out. No gradio here."""

from __future__ import annotations

import html
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chatbridge.common.text_repair import repaired
from chatbridge.serve.demo.answering import Asked, Side, answer
from chatbridge.serve.demo.chat_state import Chat, Question
from chatbridge.serve.demo.controls import options_of
from chatbridge.serve.demo.given_panel import EMPTY, counts_text, given_html
from chatbridge.serve.demo.kept_chats import KeptChats, with_id
from chatbridge.serve.demo.page_content import as_text, messages_of, number_of
from chatbridge.serve.saved_conversations.conversation_file import LoadError, SaveError
from chatbridge.serve.session import ChatTurn

Box = dict[str, Any]
SAME: Any = object()  # a component that stays as it is


@dataclass(frozen=True)
class View:
    """Values of the page's components: the input box, the answers of every model, the panel, a line of text below the
    box, and the chat itself. Each of them may be SAME."""

    box: Any
    messages: tuple[list[dict[str, Any]], ...]
    given: Any
    status: Any
    chat: Chat


@dataclass
class Handlers:
    """The events of a page with these models.

    names   of the controls, in the order of their values
    kept    saved conversations and votes
    """

    sides: Sequence[Side]
    kept: KeptChats
    names: Sequence[str] = ()
    _default: Any = field(init=False)

    def __post_init__(self) -> None:
        self._default = self.sides[0].engine.generation

    def send(self, message: Any, values: Sequence[Any], chat: Chat) -> Generator[View]:
        """Ask a question: the text and the files of the box."""
        text, files = text_and_files(message)
        return self._answer(chat.stopped(), Asked(repaired(text), files), values)

    def retry(self, values: Sequence[Any], chat: Chat) -> Generator[View]:
        """Ask the last question again, in place of its answer."""
        return self._again(chat.stopped(), len(chat.questions) - 1, None, values)

    def edit(self, index: int, text: str, values: Sequence[Any], chat: Chat) -> Generator[View]:
        """Ask the question at this index of the first model's messages with another text; later ones are removed."""
        chat = chat.stopped()
        number = number_of(chat.session(0), index)
        if not chat.questions:
            yield self.view(chat, SAME)
            return
        if as_text(old := chat.questions[number].text) != old:
            text = html.unescape(text)  # the page showed it with entities
        yield from self._again(chat, number, text, values)

    def undo(self, chat: Chat) -> View:
        """Take the last question back into the box."""
        chat = chat.stopped()
        if not chat.questions:
            return self.view(chat, SAME)
        last = chat.questions[-1]
        return self.view(chat.before(len(chat.questions) - 1), box_of(last.text, last.files))

    def stopped(self, chat: Chat) -> View:
        """After the stop button: what was generated stays."""
        return self._growing(chat.stopped())

    def given(self, chat: Chat) -> str:
        """The panel of the last question."""
        return given_html(self.sides, chat)

    def clear(self) -> View:
        """An empty page."""
        return self.view(Chat(), box_of())

    def show(self, index: int, side: int, chat: Chat) -> str:
        """The panel of the question that a message of a model belongs to."""
        return given_html(self.sides, chat, number_of(chat.session(side), index)) if chat.questions else EMPTY

    def save(self, chat: Chat) -> tuple[str | None, str]:
        """A file for the browser, or None, and a message for the user."""
        try:
            file, notes = self.kept.save(chat.stopped())
        except SaveError as error:
            return None, str(error)
        return str(file), "; ".join((f"saved as {file.name}", *notes))

    def load(self, file: str, chat: Chat) -> View:
        """The chat of a file of the browser in place of this one, or a message why not."""
        try:
            loaded, notes = self.kept.load(Path(file))
        except LoadError as error:
            return replace(self.view(chat.stopped(), SAME), status=f"{Path(file).name} cannot be loaded: {error}")
        count = len(loaded.questions)
        found = f"loaded {count} question{'s' if count != 1 else ''} of {Path(file).name}"
        return replace(self.view(loaded, box_of()), status="; ".join((found, *notes)))

    def vote(self, index: int, side: int, is_good: bool | None, chat: Chat) -> str:
        """Write a vote on the answer that a message belongs to; None takes it back. The message for the user."""
        return self.kept.vote(chat, side, number_of(chat.session(side), index), is_good)

    def view(self, chat: Chat, box: Any) -> View:
        """The whole page of a chat, with the panel of its last question."""
        return replace(self._growing(chat, box), given=given_html(self.sides, chat))

    def _growing(self, chat: Chat, box: Any = SAME) -> View:
        """The same without the panel, for every token."""
        messages = tuple(messages_of(chat.session(side)) for side in range(len(self.sides)))
        counts = counts_text(self.sides, chat.questions[-1].turns) if chat.questions else ""
        return View(box, messages, SAME, counts, chat)

    def _again(self, chat: Chat, number: int, text: str | None, values: Sequence[Any]) -> Generator[View]:
        if not 0 <= number < len(chat.questions):
            yield self.view(chat, SAME)
            return
        old = chat.questions[number]
        text = old.text if text is None else repaired(text)
        if not (text.strip() or old.files or old.turns[0].attached):
            yield self.view(chat, SAME)
            return
        turns = tuple(turn if text == old.text else replace(turn, written=None) for turn in old.turns)
        yield from self._answer(chat.before(number), Asked(text, old.files, turns), values)

    def _answer(self, chat: Chat, asked: Asked, values: Sequence[Any]) -> Generator[View]:
        chat = with_id(chat)
        yield self._growing(chat, box_of())
        try:
            asked = replace(asked, options=options_of(self._named(values), self._default))
        except (TypeError, ValueError) as error:  # most of them only over the API: the sliders keep their ranges
            refused = ChatTurn(asked.text, problem=str(error))
            turns = tuple(refused for _ in self.sides)
            yield self.view(chat.asked(Question(asked.text, tuple(asked.files), turns)), SAME)
            return
        with closing(Painted(self.sides)) as panel:
            for grown in answer(self.sides, chat, asked):
                yield replace(self._growing(grown), given=panel.of(grown))

    def _named(self, values: Sequence[Any]) -> Mapping[str, Any]:
        return dict(zip(self.names, values, strict=True))


class Painted:
    """The panel of a question that is being answered, painted beside the answer, which never waits for it."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self.sides = sides
        self._worker = ThreadPoolExecutor(1, "demo-panel")
        self._painting: Future[str] | None = None
        self._num_read = 0

    def of(self, chat: Chat) -> Any:
        """The panel when a model has read the files and it is ready; SAME until then, and after."""
        num_read = sum(bool(turn.attached or turn.answer) for turn in chat.questions[-1].turns)
        if num_read > self._num_read and self._painting is None:
            self._num_read = num_read
            self._painting = self._worker.submit(given_html, self.sides, chat)
        if self._painting is None or not self._painting.done():
            return SAME
        painted, self._painting = self._painting, None
        return SAME if painted.exception() else painted.result()

    def close(self) -> None:
        """Without waiting."""
        self._worker.shutdown(wait=False, cancel_futures=True)


def text_and_files(message: Any) -> tuple[str, tuple[Path, ...]]:
    """Text and files of the input box; over the API, a message may also be a string."""
    if isinstance(message, str):
        return message, ()
    message = message or {}
    return message.get("text") or "", tuple(map(Path, message.get("files") or ()))


def box_of(text: str = "", files: Sequence[Path] = ()) -> Box:
    """The value of the input box."""
    return {"text": text, "files": [str(path) for path in files]}


__all__ = ["SAME", "Box", "Handlers", "View", "box_of", "text_and_files"]
