"""Answers of one or two models to the same question, as they grow."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.models.language import GenerateOptions
from chatbridge.serve.demo.chat_state import Chat, Question
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.session import ChatTurn, ask
from chatbridge.serve.uploads.upload_parts import Attachment

POLL_S = 0.1  # between two looks at whether a page still waits
WAITING = 4  # answers that a model may be ahead of the page


@dataclass(frozen=True)
class Side:
    """A model of the page. name: its title above its answers, where there are two"""

    engine: ChatEngine
    name: str = ""


@dataclass(frozen=True)
class Asked:
    """What is asked.

    files   paths of uploads
    again   the turns of an earlier attempt, whose files are decoded already; () for a new question
    """

    text: str
    files: Sequence[Path] = ()
    again: tuple[ChatTurn, ...] = ()
    options: GenerateOptions | None = None

    def attached(self, side: int) -> Sequence[Path | Attachment]:
        """The files for one model."""
        return (self.again[side].attached if self.again else ()) or self.files


def answer(sides: Sequence[Side], chat: Chat, asked: Asked) -> Iterator[Chat]:
    """The chat with one more question, repeatedly while its answers grow. Closing the iterator stops all answers.

    Every model works in a thread of its own, so that none waits for the other one or for the page. Nothing is asked
    with neither text nor files. While nothing new comes, the same chat is given again several times a second: the page
    can close the iterator only between two of them.
    """
    text = asked.text.strip()
    if not text and not asked.files and not any(turn.attached for turn in asked.again):
        return
    growing = chat.asked(Question(text, tuple(asked.files), tuple(ChatTurn(text) for _ in sides)))
    yield growing
    with closing(_Race(sides, chat, asked)) as race:
        for one in race:
            if one is None:
                yield growing
                continue
            side, turn = one
            turns = list(growing.questions[-1].turns)
            turns[side] = turn
            growing = growing.answered(turns)
            yield growing


@dataclass
class _Race:
    """Turns of the models in the order in which they come: (side, turn); None while none comes."""

    sides: Sequence[Side]
    chat: Chat
    asked: Asked
    _grown: queue.Queue[tuple[int, ChatTurn | None]] = field(default_factory=lambda: queue.Queue(WAITING))
    _stop: threading.Event = field(default_factory=threading.Event)

    def __iter__(self) -> Iterator[tuple[int, ChatTurn] | None]:
        for side in range(len(self.sides)):
            threading.Thread(target=self._work, args=(side,), name=f"demo-answer-{side}", daemon=True).start()
        going = len(self.sides)
        while going:
            try:
                side, turn = self._grown.get(timeout=POLL_S)
            except queue.Empty:
                yield None
                continue
            if turn is None:
                going -= 1
            else:
                yield side, turn

    def close(self) -> None:
        """End all answers before their next token."""
        self._stop.set()

    def _work(self, side: int) -> None:
        """Ask one model. `ask` turns every error of it into a problem of its turn."""
        engine, session = self.sides[side].engine, self.chat.session(side)
        options = self.asked.options or engine.generation
        try:
            files: Any = self.asked.attached(side)
            again = self.asked.again[side] if self.asked.again else None
            sessions = ask(engine, session, self.asked.text, files, options, self._stop.is_set, again)
            with closing(sessions):
                for grown in sessions:
                    if not self._put(side, grown[-1]):
                        return
        finally:
            self._put(side, None)

    def _put(self, side: int, turn: ChatTurn | None) -> bool:
        """Hand a turn to the page; False when nobody waits for it."""
        while not self._stop.is_set():
            try:
                self._grown.put((side, turn), timeout=POLL_S)
                return True
            except queue.Full:
                continue
        return False


__all__ = ["Asked", "Side", "answer"]
