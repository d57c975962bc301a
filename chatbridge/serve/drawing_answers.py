"""An answer that draws: its captions become images, which the rest of the answer is said in view of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chatbridge.common.types import Sample
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Media, assistant
from chatbridge.datasets.collate import stack
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.language.decode import Decoding
from chatbridge.serve.prompt_cache import Position, Slot

Draw = Callable[[str, int], Tensor]  # caption, how many were drawn before it in this answer -> uint8[3, H, W]
Read = Callable[[Tensor], Tensor]  # that image -> what its encoder takes


class Illustrating:
    """One row that grows like the Decoding it is put around.

    When a caption is closed, the image is drawn, the cache forgets the caption (`take_back`) and reads the image in its
    place: a side text in training is unseen by what comes after it, and so it is here.

    images   drawn so far, uint8[3, H, W], in order
    chosen   of the one row: what follows the prompt in the cache, ids and slots of images, and the id that nobody has
             read
    """

    def __init__(
        self, model: ChatModel, layout: Layout, growing: Decoding, draw: Draw, read: Read, limit: int | None = None
    ) -> None:
        """
        layout   of a template with `drawing_ids`
        limit    most positions of the language model: images take more of them than captions do
        """
        marks = layout.template.drawing_ids
        assert marks is not None and len(growing.answers) == 1
        self.model, self.layout, self.growing = model, layout, growing
        self.images: list[Tensor] = []
        self.chosen: list[list[Position]] = [[]]
        self._opening, self._closing = marks
        self._draw_image, self._read_image, self._limit = draw, read, limit
        self._first: int | None = None  # columns of the prompt
        self._caption_at: tuple[int, int] | None = None  # column and place in the answer where a caption began
        self._is_full = False

    @property
    def answers(self) -> list[list[int]]:
        """With the ids of captions and their marks; Layout.parts takes them apart."""
        return self.growing.answers

    @property
    def is_done(self) -> bool:
        return self.growing.is_done or self._is_full

    def step(self) -> dict[int, int]:
        found = self.growing.step()
        column = self.growing.cache.length  # of the id that was chosen now
        self._first = column if self._first is None else self._first
        (new,) = found.values()
        self.chosen[0].append(new)
        if self._caption_at is None and new == self._opening:
            self._caption_at = column, len(self.answers[0])
        elif self._caption_at is not None and new == self._closing:
            self._draw(*self._caption_at)
            self._caption_at = None
        if self._limit is not None and not self.growing.is_done:
            self._is_full = self._is_full or int(self.growing.next_positions()) >= self._limit
        return found

    def _draw(self, column: int, begin: int) -> None:
        """Draw the caption whose mark would have been read into `column`; the image goes there."""
        assert self._first is not None
        ids = self.answers[0][begin:]
        caption = self.layout.tokenizer.decode(ids[:-1] if ids[-1:] == [self._closing] else ids).strip()
        image = self._draw_image(caption, len(self.images))
        self.images.append(image)
        if self.growing.is_done:
            return
        item, row = self._read_image(image), self.layout.media("image")
        if self._limit is not None and column + len(row) >= self._limit:
            self._is_full = True
            return
        sample = Sample("drawn", "drawn", (assistant(Media("image", image)),), (item,))
        batch = stack([sample], [row], self.layout.tokenizer.pad_id)
        self.growing.take_back(column)
        self.model.append(self.growing, batch.to(self.model.device))
        slots = [Slot("image", item.to(self.model.device), offset) for offset in range(len(row))]
        self.chosen[0][column - self._first :] = slots


def only_image(images: object, generator: str) -> Tensor:
    """The image of one caption. raises TypeError for what a generator may not give"""
    if not isinstance(images, Sequence | Tensor) or len(images) != 1:
        found = f"{len(images)} images" if isinstance(images, Sequence | Tensor) else type(images).__name__
        raise TypeError(f"the generator {generator} gave {found} for 1 caption; expected a list of 1 image")
    return checked_image(images[0], generator)


def checked_image(image: object, generator: str) -> Tensor:
    """raises TypeError for what a generator may not give"""
    if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        found = f"{image.dtype}{list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"the generator {generator} gave {found}; expected uint8[3, H, W]")
    return image.cpu()


__all__ = ["Draw", "Illustrating", "Read", "checked_image", "only_image"]
