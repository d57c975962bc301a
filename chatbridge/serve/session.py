"""What was said in one chat: plain values, so that a page, a terminal or a server can keep it as they like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chatbridge.common.errors import MediaError
from chatbridge.common.log import get_logger
from chatbridge.common.text_repair import repaired
from chatbridge.conversation.messages import Conversation, Message, Part, Text, assistant
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.engine import ChatEngine, NoAnswer
from chatbridge.serve.upload_parts import Attachment

logger = get_logger(__name__)


@dataclass(frozen=True)
class Turn:
    """A question and what became of it.

    parts    the answer as the model reads it again, with the images that were drawn; `answer` is its text
    problem  why there is no answer; such a turn is shown, and the model never reads it
    notes    what the person should know about this turn
    """

    text: str
    attached: tuple[Attachment, ...] = ()
    answer: str = ""
    is_done: bool = False
    problem: str | None = None
    notes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def reply(self) -> Message:
        return Message("assistant", self.parts) if self.parts else assistant(self.answer)

    @property
    def question(self) -> Message:
        media = tuple(item for attachment in self.attached for item in attachment.media)
        return Message("user", (*media, Text(self.text)))


Session = tuple[Turn, ...]


def conversation_of(session: Session) -> Conversation:
    """What the model reads: answered turns, and the question that waits for its answer."""
    messages: list[Message] = []
    for turn in session:
        if turn.problem is None:
            messages += [turn.question, turn.reply] if turn.is_done else [turn.question]
    return tuple(messages)


def ask(
    engine: ChatEngine,
    session: Session,
    text: str,
    files: Sequence[str | Path] = (),
    options: GenerateOptions | None = None,
) -> Iterator[Session]:
    """The session with one more turn, again and again while its answer grows.

    A file that cannot be read, a question without room, or a model that fails becomes the turn's problem; the chat can
    go on.
    """
    session = tuple(settled(turn) for turn in session if turn.is_done or turn.problem or turn.answer or turn.parts)
    turn = Turn(repaired(text).strip())
    try:
        attached = tuple(engine.attach(path) for path in files)
        turn = replace(turn, text=turn.text or describe(attached), attached=attached)
        turn = replace(turn, notes=tuple(item.note for item in attached if item.note))
        if not turn.text:
            return
        yield (*session, turn)
        for answer in engine.stream(conversation_of((*session, turn)), options):
            notes = tuple(dict.fromkeys((*turn.notes, *answer.notes)))
            turn = replace(turn, answer=answer.text, parts=answer.parts, is_done=answer.is_done, notes=notes)
            yield (*session, turn)
    except (MediaError, NoAnswer) as error:
        yield (*session, replace(turn, problem=str(error)))
    except Exception as error:  # for example a GPU without memory: the others go on talking
        logger.exception("an answer failed")
        yield (*session, replace(turn, problem=f"the model failed ({type(error).__name__}: {error})"))


def settled(turn: Turn) -> Turn:
    """A turn as the next one finds it: an answer that was stopped stays as far as it came."""
    if turn.is_done or turn.problem:
        return turn
    return replace(turn, is_done=True, notes=(*turn.notes, "this answer was stopped"))


def describe(attached: Sequence[Attachment]) -> str:
    """What is asked when files come without words."""
    found = (item.media[0].modality for item in attached)
    kinds = dict.fromkeys(MODALITIES.get(name).in_prompt if name in MODALITIES else name for name in found)
    return f"Describe the {' and the '.join(kinds)}." if kinds else ""
