"""An answer as it grows: its text and drawings so far, settled enough to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from chatbridge.common.text_repair import is_valid, repaired
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Drawing, Message, Part, Text


@dataclass(frozen=True)
class Answer:
    """An answer, or as much of it as has been generated.

    parts    text and drawings; a drawing has its image (uint8[3, H, W]) if the engine has a generator
    is_done  True for a complete answer
    notes    messages for the user, for example that turns were left out
    num_tokens  generated so far, without those of a stop sequence
    is_cut   True for an answer that ended because it reached the longest length
    """

    parts: tuple[Part, ...]
    is_done: bool = False
    notes: tuple[str, ...] = ()
    num_tokens: int = 0
    is_cut: bool = False

    @property
    def text(self) -> str:
        """The text, without drawings."""
        return self.message.text

    @property
    def message(self) -> Message:
        """The answer as a turn that a conversation can continue from."""
        return Message("assistant", self.parts)


def partial_parts(layout: Layout, ids: Sequence[int], images: Sequence[Tensor] = ()) -> tuple[Part, ...]:
    """Text and drawings of the tokens generated so far, without an end that later tokens may change.

    images  of the drawings in order, uint8[3, H, W] each
    """
    parts = _with_images(layout.parts(ids, is_whole=False), images)
    if not parts or not isinstance(parts[-1], Text):
        return parts
    text = _settled(parts[-1].text, layout.template.stops)
    return (*parts[:-1], Text(text)) if text else parts[:-1]


def complete_parts(layout: Layout, ids: Sequence[int], images: Sequence[Tensor] = ()) -> tuple[Part, ...]:
    """Text and drawings of all tokens of an answer.

    images  of the drawings in order, uint8[3, H, W] each
    """
    return _with_images(layout.parts(ids), images)


def are_same(parts: Sequence[Part], others: Sequence[Part]) -> bool:
    """Whether two answers are equal; images are compared by identity, not by their pixels."""
    return len(parts) == len(others) and all(map(_is_same, parts, others))


def without_lone_surrogates(message: Message) -> Message:
    """The message with lone halves of UTF-16 pairs replaced in its text: tokenizers raise on them."""
    if all(is_valid(_text_of(part)) for part in message.parts):
        return message
    return replace(message, parts=tuple(map(_repaired, message.parts)))


def _with_images(parts: Sequence[Part], images: Sequence[Tensor]) -> tuple[Part, ...]:
    """Each drawing with its image; lone surrogates in the text are replaced."""
    left = iter(images)
    return tuple(
        replace(part, ref=next(left, None)) if isinstance(part, Drawing) else part for part in map(_repaired, parts)
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
