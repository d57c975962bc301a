"""The drawings of a whole answer: those with images, and those without one with the reason."""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.conversation.answer_parts import split_captions
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Drawing
from chatbridge.models.drawing.artist import NO_GENERATOR, UNFINISHED, Drawn

FULL = "the answer ended because the context of the language model is full"


def all_drawn(layout: Layout, ids: Sequence[int], drawn: Sequence[Drawn] = ()) -> list[Drawn]:
    """One for each Drawing of `layout.parts(ids)`, in order.

    ids     of a whole answer
    drawn   of its complete captions; without any, for example of a beam search, they have no image
    """
    is_closed = [closed for is_caption, closed, _ in split_captions(ids, layout.template.drawing_ids) if is_caption]
    found = list(drawn)
    drawings = [part for part in layout.parts(ids) if isinstance(part, Drawing)]
    for number in range(len(found), len(drawings)):
        problem = NO_GENERATOR if is_closed[number] else UNFINISHED
        found.append(Drawn(drawings[number].caption, problem=problem))
    return found[: len(drawings)]


def drawing_notes(drawn: Sequence[Drawn]) -> tuple[str, ...]:
    """Messages for a person about captions without an image; captions with the same problem share one."""
    captions: dict[str, list[str]] = {}
    for one in drawn:
        if one.problem is not None:
            captions.setdefault(one.problem, []).append(repr(one.caption))
    return tuple(_note(problem, found) for problem, found in captions.items())


def _note(problem: str, captions: Sequence[str]) -> str:
    continued = "" if problem == UNFINISHED else f"; the answer goes on from the caption{'s' * (len(captions) > 1)}"
    return f"no image of {', '.join(captions)}: {problem}{continued}"


__all__ = ["FULL", "all_drawn", "drawing_notes"]
