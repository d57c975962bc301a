"""Generated ids, divided into text and captions of drawings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from chatbridge.conversation.messages import Part, Text


def split_captions(ids: Sequence[int], marks: tuple[int, int] | None) -> Iterator[tuple[bool, bool, Sequence[int]]]:
    """(whether it is a caption, whether it is closed, its ids without the marks) of each piece, in order.

    A mark where it opens or closes nothing is dropped: `closing` outside a caption, `opening` inside one.
    marks   tokens that open and close a caption; None: all is text
    """
    if marks is None:
        yield False, True, ids
        return
    opening, closing = marks
    piece: list[int] = []
    is_caption = False
    for number in ids:
        if number == (closing if is_caption else opening):
            yield is_caption, True, piece
            piece, is_caption = [], not is_caption
        elif number not in marks:
            piece.append(number)
    yield is_caption, False, piece


def num_captions(ids: Sequence[int], marks: tuple[int, int]) -> int:
    """Captions in the ids of an answer; one that is not closed counts."""
    return sum(is_caption for is_caption, _, _ in split_captions(ids, marks))


def trimmed(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts without blanks at both ends of the message, and without empty text."""
    found = list(parts)
    if found and isinstance(found[0], Text):
        found[0] = replace(found[0], text=found[0].text.lstrip())
    if found and isinstance(found[-1], Text):
        found[-1] = replace(found[-1], text=found[-1].text.rstrip())
    return tuple(part for part in found if not isinstance(part, Text) or part.text)


__all__ = ["num_captions", "split_captions", "trimmed"]
