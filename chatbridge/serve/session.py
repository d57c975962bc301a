"""The turns of one chat, as plain values that a page, a terminal or a server can store."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from chatbridge.common.errors import MediaError
from chatbridge.common.log import get_logger
from chatbridge.common.text_repair import repaired
from chatbridge.conversation.messages import (
    Conversation,
    Drawing,
    Message,
    Part,
    Text,
    assistant,
    media_parts,
)
from chatbridge.conversation.modalities import IMAGE, MODALITIES
from chatbridge.conversation.question_form import QuestionForm
from chatbridge.models.language import GenerateOptions
from chatbridge.processors.limits import ChatLimits
from chatbridge.serve.answer import Answer
from chatbridge.serve.context_length import NoAnswer
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.request import PLAIN, Finish, RequestSettings, Timing, Usage
from chatbridge.serve.uploads.upload_parts import Attachment

logger = get_logger(__name__)
MEDIA_FIRST = QuestionForm()
STOPPED = "this answer was stopped"  # the note of such a turn, also in saved files
CLOSING = ".,!?;:)"  # no blank before these


@dataclass(frozen=True)
class ChatTurn:
    """A question and its answer, or the problem that prevented one.

    parts    the answer with its images, as the model reads it in later turns; `answer` is its text
    problem  why there is no answer; such a turn is displayed, but the model never reads it
    notes    messages for the user about this turn
    form     how its files and its text are put together
    num_tokens, is_cut  of the answer, see `Answer`
    rendering, rendered  the caption of the image that is being rendered, and its finished share
    written  the question as a file has it, where `form` would put it together differently; a turn of a page has none
    before   system messages between the turn before this one and the question
    finish, usage, timing  of the answer, see `Answer`
    """

    text: str
    attached: tuple[Attachment, ...] = ()
    answer: str = ""
    is_done: bool = False
    problem: str | None = None
    notes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    form: QuestionForm = MEDIA_FIRST
    num_tokens: int = 0
    is_cut: bool = False
    rendering: str | None = None
    rendered: float = 0.0
    written: Message | None = None
    before: tuple[Message, ...] = ()
    finish: Finish | None = None
    usage: Usage = field(default_factory=Usage)
    timing: Timing = field(default_factory=Timing)

    @property
    def display(self) -> str:
        """The answer as one text; a drawing is its caption in brackets, with a blank on both sides."""
        if not any(isinstance(part, Drawing) for part in self.parts):
            return self.answer
        shown = ""
        for part in self.parts:
            drawing = f"[drawing: {part.caption}]" if isinstance(part, Drawing) else ""
            piece = part.text if isinstance(part, Text) else drawing
            is_apart = not shown or shown[-1].isspace() or not piece or piece[0].isspace() or piece[0] in CLOSING
            shown += piece if is_apart else f" {piece}"
        return shown

    @property
    def reply(self) -> Message:
        """The answer as a message."""
        return Message("assistant", self.parts) if self.parts else assistant(self.answer)

    @property
    def question(self) -> Message:
        """The files and the text as a message."""
        if self.written is not None:
            return self.written
        return self.form.message([item for attachment in self.attached for item in attachment.media], self.text)


Session = tuple[ChatTurn, ...]


def conversation_of(session: Session) -> Conversation:
    """The conversation that the model reads: answered turns, and the open question."""
    messages: list[Message] = []
    for turn in session:
        messages += turn.before
        if turn.problem is None:
            messages += [turn.question, turn.reply] if turn.is_done else [turn.question]
    return tuple(messages)


def ask(
    engine: ChatEngine,
    session: Session,
    text: str,
    files: Sequence[str | Path | Attachment] = (),
    options: GenerateOptions | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
    again: ChatTurn | None = None,
    settings: RequestSettings = PLAIN,
) -> Generator[Session]:
    """The session with one more turn, repeatedly while its answer grows. Closing the iterator stops the answer.

    files       paths, or files that are attached already
    is_stopped  checked before every token; True ends the answer
    again       the turn whose question is asked again: its form and its system messages are kept
    settings    stop strings and the time limit of the answer
    A file that cannot be read, a question that does not fit, or an error of the model becomes the turn's problem; the
    chat can continue.
    """
    session = tuple(settled(turn) for turn in session if turn.is_done or turn.problem or turn.answer or turn.parts)
    turn = ChatTurn(repaired(text).strip(), form=engine.question_form)
    if again is not None:
        turn = replace(turn, form=again.form, before=again.before, written=again.written)
    try:
        attached = tuple(one if isinstance(one, Attachment) else engine.attach(one) for one in files)
        turn = replace(turn, text=turn.text or describe(attached), attached=attached)
        of_files = tuple(item.note for item in attached if item.note)
        turn = replace(turn, notes=of_files)
        if not turn.text:
            return
        yield (*session, turn)
        conversation = conversation_of((*session, turn))
        check_size(conversation, engine.limits)
        for answer in engine.stream(conversation, options, is_stopped, settings):
            turn = _answered(turn, answer, of_files)
            yield (*session, turn)
    except (MediaError, NoAnswer) as error:
        yield (*session, replace(turn, problem=str(error)))
    except Exception as error:  # for example a GPU out of memory: other chats continue
        logger.exception("generating an answer failed")
        yield (*session, replace(turn, problem=f"the model failed ({type(error).__name__}: {error})"))


def _answered(turn: ChatTurn, answer: Answer, of_files: tuple[str, ...]) -> ChatTurn:
    """A turn with an answer, whole or so far; of_files: notes about its files."""
    return replace(
        turn,
        answer=answer.text,
        parts=answer.parts,
        is_done=answer.is_done,
        notes=tuple(dict.fromkeys((*of_files, *answer.notes))),  # each answer has all of its own
        num_tokens=answer.num_tokens,
        is_cut=answer.is_cut,
        rendering=answer.rendering,
        rendered=answer.rendered,
        finish=answer.finish,
        usage=answer.usage,
        timing=answer.timing,
    )


def settled(turn: ChatTurn) -> ChatTurn:
    """A turn before the next one begins: an answer that was stopped keeps what was generated."""
    if turn.is_done or turn.problem:
        return turn
    return replace(turn, is_done=True, notes=(*turn.notes, STOPPED), rendering=None)


def check_size(conversation: Conversation, limits: ChatLimits) -> None:
    """raises NoAnswer when the conversation is beyond the limits of words or images"""
    words = sum(len(message.text.split()) for message in conversation)
    images = sum(item.modality == IMAGE.name for item in media_parts(conversation))
    counted = (("words", words, limits.max_words), ("images", images, limits.max_images))
    for what, found, most in counted:
        if most is not None and found > most:
            setting = f"evaluation.chat.max_{what}"
            advice = "begin a new conversation" if len(conversation) > 1 else f"ask with fewer {what}"
            raise NoAnswer(f"this conversation has {found} {what}, more than the {most} of {setting}; {advice}")


def describe(attached: Sequence[Attachment]) -> str:
    """The question for files without text."""
    found = (item.media[0].modality for item in attached)
    kinds = dict.fromkeys(MODALITIES.get(name).in_prompt if name in MODALITIES else name for name in found)
    return f"Describe the {' and the '.join(kinds)}." if kinds else ""
