"""What the events of the page do: values of its components in, values of its components out. No gradio here."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chatbridge.common.text_repair import repaired
from chatbridge.serve.demo.answering import Asked, Side, answer
from chatbridge.serve.demo.chat_state import Chat, Question
from chatbridge.serve.demo.controls import options_of
from chatbridge.serve.demo.page_content import as_text, media_list, messages_of, number_of
from chatbridge.serve.session import ChatTurn

Box = dict[str, Any]
SAME: Any = object()  # a component that stays as it is


@dataclass(frozen=True)
class View:
    """Values of the page's components: the input box, the answers of every model, the panel, and the chat itself."""

    box: Any
    messages: tuple[list[dict[str, Any]], ...]
    given: str
    chat: Chat
    status: str = ""


@dataclass
class Handlers:
    """The events of a page with these models.

    names   of the controls, in the order of their values
    """

    sides: Sequence[Side]
    names: Sequence[str] = ()
    _default: Any = field(init=False)

    def __post_init__(self) -> None:
        self._default = self.sides[0].engine.generation

    def send(self, message: Any, values: Sequence[Any], chat: Chat) -> Iterator[View]:
        """Ask a question: the text and the files of the box."""
        text, files = text_and_files(message)
        return self._answer(chat.stopped(), Asked(repaired(text), files), values)

    def retry(self, values: Sequence[Any], chat: Chat) -> Iterator[View]:
        """Ask the last question again, in place of its answer."""
        return self._again(chat.stopped(), len(chat.questions) - 1, None, values)

    def edit(self, index: int, text: str, values: Sequence[Any], chat: Chat) -> Iterator[View]:
        """Ask the question at this index of the first model's messages with another text; later ones are removed."""
        chat = chat.stopped()
        number = number_of(chat.session(0), index)
        if chat.questions and as_text(old := chat.questions[number].text) != old:
            text = html.unescape(text)  # the page showed it with entities
        return self._again(chat, number, text, values)

    def undo(self, chat: Chat) -> View:
        """Take the last question back into the box."""
        chat = chat.stopped()
        if not chat.questions:
            return self.view(chat, SAME)
        last = chat.questions[-1]
        return self.view(chat.before(len(chat.questions) - 1), box_of(last.text, last.files))

    def stopped(self, chat: Chat) -> View:
        """After the stop button: what was generated stays."""
        return self.view(chat.stopped(), SAME)

    def clear(self) -> View:
        """An empty page."""
        return self.view(Chat(), box_of())

    def view(self, chat: Chat, box: Any, number: int = -1, status: str = "") -> View:
        """The page of a chat, with the panel of one question."""
        sessions = [chat.session(side) for side in range(len(self.sides))]
        return View(box, tuple(map(messages_of, sessions)), media_list(sessions[0]), chat, status)

    def _again(self, chat: Chat, number: int, text: str | None, values: Sequence[Any]) -> Iterator[View]:
        if not 0 <= number < len(chat.questions):
            yield self.view(chat, SAME)
            return
        old = chat.questions[number]
        text = old.text if text is None else repaired(text)
        if not (text.strip() or old.files or old.turns[0].attached):
            yield self.view(chat, SAME)
            return
        yield from self._answer(chat.before(number), Asked(text, old.files, old.turns), values)

    def _answer(self, chat: Chat, asked: Asked, values: Sequence[Any]) -> Iterator[View]:
        yield self.view(chat, box_of())
        try:
            asked = replace(asked, options=options_of(self._named(values), self._default))
        except (TypeError, ValueError) as error:  # most of them only over the API: the sliders keep their ranges
            refused = ChatTurn(asked.text, problem=str(error))
            turns = tuple(refused for _ in self.sides)
            yield self.view(chat.asked(Question(asked.text, tuple(asked.files), turns)), SAME)
            return
        for grown in answer(self.sides, chat, asked):
            yield self.view(grown, SAME)

    def _named(self, values: Sequence[Any]) -> Mapping[str, Any]:
        return dict(zip(self.names, values, strict=True))


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
