"""Answers with images: a generator renders each caption, and the rest of the answer is generated from the image.

The loop of TextBind (SihengLi99/TextBind, MIMModel.cache_generation), for any number of answers at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.types import Batch
from chatbridge.conversation.layout import Layout
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing.artist import Artist, Drawn, drawing_seed
from chatbridge.models.drawing.positions import MediaPosition, Position
from chatbridge.models.drawing.row_batches import image_batch, row_batch
from chatbridge.models.language.decode import Decoding

EncoderInput = Callable[[Tensor], Tensor]  # uint8[3, H, W] -> the input of the image encoder


@dataclass
class _Row:
    """One answer.

    chosen    what follows the prompt in the cache; the last one is not read yet
    begun     where the open caption began: index in `Decoding.chosen`, and index here; None outside a caption
    is_full   whether it ended because the context was full
    """

    seed: int
    drawn: list[Drawn] = field(default_factory=list)
    chosen: list[Position] = field(default_factory=list)
    begun: tuple[int, int] | None = None
    is_full: bool = False


@dataclass(frozen=True)
class _Caption:
    """A caption that is complete, and where it began."""

    row: int
    text: str
    begun: tuple[int, int]


class DrawingDecoding:
    """Wraps the Decoding of R answers with the same interface: it renders images of captions.

    When a caption ends, its image is rendered, and the cache drops the caption (`take_back`) and reads the image in its
    place, as in training, where later text cannot attend to a caption (BranchSpan). Without an image, the caption stays
    in the cache as text. Answers do not depend on the others of their batch.

    Tokens that open a caption within another one, or close none, are tokens like any other; `Layout.parts` drops them.
    """

    def __init__(
        self,
        model: ChatModel,
        layout: Layout,
        decoding: Decoding,
        batch: Batch,
        artist: Artist,
        encoder_input: EncoderInput,
        seeds: Sequence[int],
        context_length: int | None = None,
    ) -> None:
        """
        layout          with a template that has `drawing_ids`
        batch           the whole prompts, also of what the cache of `decoding` had before
        seeds           of each answer; its images derive theirs
        context_length  of the language model; an image may need more positions than its caption
        """
        marks = layout.template.drawing_ids
        assert marks is not None and len(decoding.answers) == len(seeds)
        self.decoding = decoding
        self._model, self._layout, self._batch = model, layout, batch
        self._opening, self._closing = marks
        self._artist, self._encoder_input, self._context_length = artist, encoder_input, context_length
        self._rows = [_Row(seed) for seed in seeds]
        self._lengths: list[int] = batch.lengths.tolist()  # of the prompts
        self._waiting: list[_Caption] = []
        self._rendered: list[tuple[_Caption, Drawn]] = []  # what the next step puts into the answers

    @property
    def answers(self) -> list[list[int]]:
        """Token ids, captions and their marks included; `Layout.parts` separates them."""
        return self.decoding.answers

    @property
    def drawn(self) -> list[list[Drawn]]:
        """For each answer its complete captions in order, with their images."""
        return [row.drawn for row in self._rows]

    @property
    def chosen(self) -> list[list[Position]]:
        """For each answer what follows the prompt in the cache: token ids, and positions of drawn images. The last one
        may not be read yet."""
        return [row.chosen for row in self._rows]

    @property
    def is_full(self) -> list[bool]:
        """For each answer whether it ended because the context is full."""
        return [row.is_full for row in self._rows]

    @property
    def rendering(self) -> tuple[str, ...]:
        """The captions whose images the next step renders first; none without a generator."""
        return () if self._artist.generator is None else tuple(caption.text for caption in self._waiting)

    @property
    def is_done(self) -> bool:
        """Whether all answers are finished and drawn."""
        return self.decoding.is_done and not self._waiting and not self._rendered

    def step(self) -> dict[int, int]:
        """Render the images of captions that ended with the last step, then generate one token of each unfinished
        answer; returns row -> token id."""
        self.render()
        self._place()
        if self.decoding.is_done:
            return {}
        found = self.decoding.step()
        for number, new in found.items():
            self._follow(number, new)
        self._finish_full()
        return found

    def render(self) -> None:
        """Render the images that wait, all at once; `step` does it otherwise. The model is not used meanwhile.

        raises   RenderStopped of a caller that is `watching`; the captions go on waiting
        """
        waiting = self._waiting
        if not waiting:
            return
        rows = [self._rows[one.row] for one in waiting]
        numbers = [drawing_seed(row.seed, len(row.drawn)) for row in rows]
        drawn = self._artist.draw([one.text for one in waiting], numbers)
        self._rendered, self._waiting = list(zip(waiting, drawn, strict=True)), []

    def _place(self) -> None:
        """Continue the answers from their images."""
        rendered, self._rendered = self._rendered, []
        for caption, drawn in rendered:
            self._rows[caption.row].drawn.append(self._seen(caption, drawn))
        self._finish_full()

    def _follow(self, number: int, new: int) -> None:
        """Note the id that an answer has got."""
        row, ids = self._rows[number], self.decoding.chosen[number]
        row.chosen.append(new)
        if row.begun is None and new == self._opening:
            row.begun = len(ids) - 1, len(row.chosen) - 1
        elif row.begun is not None and new == self._closing:
            inside = [one for one in ids[row.begun[0] + 1 : -1] if one != self._opening]
            self._waiting.append(_Caption(number, self._layout.tokenizer.decode(inside).strip(), row.begun))
            row.begun = None

    def _seen(self, caption: _Caption, drawn: Drawn) -> Drawn:
        """Continue an answer from its image, if there is one; returns it, or the reason why it cannot be read."""
        if drawn.image is None:
            return drawn
        try:
            item = self._encoder_input(drawn.image)
        except MediaError as error:  # of a limit, such as the most pixels of an image
            return Drawn(drawn.caption, problem=str(error))
        if self._is_active(caption.row):
            self._replace(caption, item)
        return drawn

    def _replace(self, caption: _Caption, item: Tensor) -> None:
        """Put an image where its caption began."""
        row, (begin, place) = self._rows[caption.row], caption.begun
        slots = self._layout.media("image")
        positions: list[Position] = [MediaPosition("image", item, offset) for offset in range(len(slots))]
        if self._is_beyond(caption.row, place + len(slots)):
            self._finish(caption.row)
            return
        self.decoding.take_back(caption.row, len(self.decoding.chosen[caption.row]) - begin)
        row.chosen[place:] = positions
        try:
            self._model.append(self.decoding, image_batch(slots, item, self._model.device), caption.row)
        except DataError:  # a fusion for which the image changes what was read before it
            whole = row_batch(self._batch, caption.row, row.chosen, slots)
            self._model.restart(self.decoding, whole, caption.row)

    def _is_active(self, number: int) -> bool:
        return number in self.decoding.unfinished

    def _finish_full(self) -> None:
        """End answers whose next token has no position. One whose caption is complete waits for its image."""
        waiting = {caption.row for caption in self._waiting}
        for number in self.decoding.unfinished:
            if number not in waiting and self._is_beyond(number, len(self._rows[number].chosen)):
                self._finish(number)

    def _is_beyond(self, number: int, num_after: int) -> bool:
        """Whether so many tokens after the prompt leave no position for another one."""
        return self._context_length is not None and self._lengths[number] + num_after >= self._context_length

    def _finish(self, number: int) -> None:
        self._rows[number].is_full = True
        self.decoding.finish(number)


__all__ = ["DrawingDecoding", "EncoderInput"]
