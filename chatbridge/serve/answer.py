"""An answer as it grows: its text and drawings so far, settled enough to show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from chatbridge.common.text_repair import is_valid, repaired
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Drawing, Message, Part, Text
from chatbridge.models.drawing.artist import Drawn
from chatbridge.serve.request import Finish, Timing, TokenLogprob, Usage


@dataclass(frozen=True)
class Answer:
    """An answer, or as much of it as has been generated.

    parts    text and drawings; a drawing has its image (uint8[3, H, W]) unless it could not be drawn, as a note tells
    is_done  True for a complete answer
    notes    messages for the user, for example that turns were left out
    num_tokens  generated so far, without those of a stop sequence
    is_cut   True for an answer that ended because it reached the longest length, or the end of the context
    rendering  the caption of the image that is being rendered; it joins `parts` together with its image
    rendered  its finished share, 0 to 1; it stays 0 for a generator that does not report it
    finish    why a complete answer ended
    logprobs  of its tokens, where the request asked for them
    usage, timing  what was counted so far
    """

    parts: tuple[Part, ...]
    is_done: bool = False
    notes: tuple[str, ...] = ()
    num_tokens: int = 0
    is_cut: bool = False
    rendering: str | None = None
    rendered: float = 0.0
    finish: Finish | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    usage: Usage = field(default_factory=Usage)
    timing: Timing = field(default_factory=Timing)

    @property
    def text(self) -> str:
        """The text, without drawings."""
        return self.message.text

    @property
    def message(self) -> Message:
        """The answer as a turn that a conversation can continue from."""
        return Message("assistant", self.parts)


def finished_parts(answers: Iterable[Answer]) -> Iterator[Part]:
    """The parts of a growing answer, each once it cannot change any more."""
    num_given = 0
    for answer in answers:
        is_complete = answer.is_done or isinstance(next(reversed(answer.parts), None), Drawing)
        complete = answer.parts if is_complete else answer.parts[:-1]
        yield from complete[num_given:]
        num_given = max(num_given, len(complete))


def partial_parts(layout: Layout, ids: Sequence[int], drawn: Sequence[Drawn] = ()) -> tuple[Part, ...]:
    """Text and drawings of the tokens generated so far, without an end that later tokens may change.

    drawn   of the captions that are complete, in order; a caption without one yet is left out, with what follows
    """
    parts = layout.parts(ids, is_whole=False)
    whole = [at for at, part in enumerate(parts) if isinstance(part, Drawing)]
    if len(whole) > len(drawn):
        parts = parts[: whole[len(drawn)]]
    parts = with_images(parts, drawn)
    if not parts or not isinstance(parts[-1], Text):
        return parts
    text = _settled(parts[-1].text, layout.stop_strings)
    return (*parts[:-1], Text(text)) if text else parts[:-1]


def complete_parts(layout: Layout, ids: Sequence[int], drawn: Sequence[Drawn] = ()) -> tuple[Part, ...]:
    """Text and drawings of all tokens of an answer; see `with_images`."""
    return with_images(layout.parts(ids), drawn)


def are_same(parts: Sequence[Part], others: Sequence[Part]) -> bool:
    """Whether two answers are equal; images are compared by identity, not by their pixels."""
    return len(parts) == len(others) and all(map(_is_same, parts, others))


def without_lone_surrogates(message: Message) -> Message:
    """The message with lone halves of UTF-16 pairs replaced in its text: tokenizers raise on them."""
    if all(is_valid(_text_of(part)) for part in message.parts):
        return message
    return replace(message, parts=tuple(map(_repaired, message.parts)))


def with_images(parts: Sequence[Part], drawn: Sequence[Drawn]) -> tuple[Part, ...]:
    """Each drawing with its image; lone surrogates in the text are replaced.

    drawn   of the drawings in order; the last one has none if the answer ended within its caption
    """
    images = iter(drawn)
    return tuple(
        replace(part, ref=one.image if (one := next(images, None)) is not None else None)
        if isinstance(part, Drawing)
        else part
        for part in map(_repaired, parts)
    )


def _settled(text: str, stops: Sequence[str]) -> str:
    """Without half a character, or the beginning of a stop string, at its end."""
    text = text.rstrip("\ufffd")
    for stop in stops:
        for length in range(len(stop) - 1, 0, -1):
            if text.endswith(stop[:length]):
                return text[:-length].rstrip()
    return text


def _repaired(part: Part) -> Part:
    if isinstance(part, Drawing):
        return replace(part, caption=repaired(part.caption))
    return Text(repaired(part.text)) if isinstance(part, Text) else part


def _is_same(one: Part, other: Part) -> bool:
    if isinstance(one, Drawing) and isinstance(other, Drawing):
        return one.caption == other.caption and one.ref is other.ref
    return one == other


def _text_of(part: Part) -> str:
    return part.text if isinstance(part, Text) else part.caption if isinstance(part, Drawing) else ""
