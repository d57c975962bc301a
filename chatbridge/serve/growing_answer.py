"""The answer of one generation, as far as it is: with drawings or without."""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Part
from chatbridge.models.drawing import DrawingDecoding, Drawn
from chatbridge.models.drawing.answers import FULL, all_drawn, drawing_notes
from chatbridge.models.language.decode import Generation
from chatbridge.serve.answer import Answer, complete_parts, partial_parts


class GrowingAnswer:
    """Reads what a generation of one prompt has so far."""

    def __init__(self, decoding: Generation, layout: Layout, notes: tuple[str, ...], max_new_tokens: int) -> None:
        """
        notes           about the prompt, for the user
        max_new_tokens  of the generation; an answer of this length was cut
        """
        self.decoding, self.layout, self.notes, self.max_new_tokens = decoding, layout, notes, max_new_tokens

    @property
    def rendering(self) -> str | None:
        """The caption whose image `render` renders next."""
        waiting = self.decoding.rendering if isinstance(self.decoding, DrawingDecoding) else ()
        return next(iter(waiting), None)

    @property
    def parts(self) -> tuple[Part, ...]:
        """See `partial_parts`."""
        return partial_parts(self.layout, self._ids, self._drawn)

    def render(self) -> None:
        """Render the images that wait. raises RenderStopped of a caller that is `watching`"""
        if isinstance(self.decoding, DrawingDecoding):
            self.decoding.render()

    def now(self, parts: tuple[Part, ...], rendering: str | None = None) -> Answer:
        """The answer so far.

        parts      those that are shown
        rendering  the caption of the image that is being rendered
        """
        notes = (*self.notes, *drawing_notes(self._drawn))
        return Answer(parts, notes=notes, num_tokens=len(self._ids), rendering=rendering)

    def complete(self) -> Answer:
        """The answer of a generation that is done."""
        drawn = all_drawn(self.layout, self._ids, self._drawn)
        is_full = isinstance(self.decoding, DrawingDecoding) and self.decoding.is_full[0]
        is_longest = len(self._ids) >= self.max_new_tokens and not self.layout.has_stop(self._ids)
        return Answer(
            complete_parts(self.layout, self._ids, drawn),
            is_done=True,
            notes=(*self.notes, *drawing_notes(drawn), *([FULL] if is_full else [])),
            num_tokens=len(self._ids),
            is_cut=is_full or is_longest,
        )

    @property
    def _ids(self) -> list[int]:
        return self.decoding.answers[0]

    @property
    def _drawn(self) -> Sequence[Drawn]:
        return self.decoding.drawn[0] if isinstance(self.decoding, DrawingDecoding) else ()


__all__ = ["GrowingAnswer"]
