"""What one browser has on its page: the questions of a chat, each with its turn of every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chatbridge.serve.session import ChatTurn, Session, settled

STOPPED_EMPTY = "stopped before the first word"  # the problem of such a turn


@dataclass(frozen=True)
class Question:
    """A question as it was asked, and its turn of every model of the page."""

    text: str
    files: tuple[Path, ...]
    turns: tuple[ChatTurn, ...]


@dataclass(frozen=True)
class Chat:
    """The questions of a chat, in order.

    id   of its saved file and its thumbs; "" before the first question
    """

    questions: tuple[Question, ...] = ()
    id: str = ""

    def session(self, side: int) -> Session:
        """The turns of one model, one for each question."""
        return tuple(one.turns[side] for one in self.questions)

    def before(self, number: int) -> Chat:
        """The chat before this question, counted from 0."""
        return replace(self, questions=self.questions[:number])

    def asked(self, question: Question) -> Chat:
        """With one more question."""
        return replace(self, questions=(*self.questions, question))

    def answered(self, turns: Sequence[ChatTurn]) -> Chat:
        """With these turns of the last question."""
        *earlier, last = self.questions
        return replace(self, questions=(*earlier, replace(last, turns=tuple(turns))))

    def stopped(self) -> Chat:
        """With the answers that were not complete marked as stopped, and those without a word as problems, so that no
        later prompt has an empty answer."""
        if not self.questions:
            return self
        return self.answered([_stopped(turn) for turn in self.questions[-1].turns])


def _stopped(turn: ChatTurn) -> ChatTurn:
    if turn.is_done or turn.problem or turn.parts or turn.answer:
        return settled(turn)
    return replace(turn, problem=STOPPED_EMPTY, rendering=None)


__all__ = ["STOPPED_EMPTY", "Chat", "Question"]
