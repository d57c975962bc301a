"""Answers with images: a generator renders each caption, and the rest of the answer is generated from the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chatbridge.common import seeds
from chatbridge.common.types import Sample
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Media, assistant
from chatbridge.datasets.collate import stack
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.generators import Generator
from chatbridge.models.language.decode import Decoding
from chatbridge.serve.prompt_cache import MediaPosition, Position

DrawImage = Callable[[str, int], Tensor]  # caption, number of earlier images in this answer -> uint8[3, H, W]
EncoderInput = Callable[[Tensor], Tensor]  # uint8[3, H, W] -> the input of the image encoder


class DrawingDecoding:
    """Wraps the Decoding of one answer: it renders images of captions, with the same interface.

    When a caption ends, its image is rendered, and the cache drops the caption (`take_back`) and reads the image in its
    place, as in training, where later text cannot attend to a caption (BranchSpan).

    images   rendered so far, uint8[3, H, W] each, in order
    chosen   of the one conversation: what follows the prompt in the cache, token ids and positions of images, and the
             last id, which has not been read
    """

    def __init__(
        self,
        model: ChatModel,
        layout: Layout,
        decoding: Decoding,
        draw: DrawImage,
        encoder_input: EncoderInput,
        context_length: int | None = None,
    ) -> None:
        """
        layout          with a template that has `drawing_ids`
        context_length  of the language model; an image needs more positions than its caption
        """
        marks = layout.template.drawing_ids
        assert marks is not None and len(decoding.answers) == 1
        self.model, self.layout, self.decoding = model, layout, decoding
        self.images: list[Tensor] = []
        self.chosen: list[list[Position]] = [[]]
        self._opening, self._closing = marks
        self._draw_image, self._encoder_input, self._context_length = draw, encoder_input, context_length
        self._first: int | None = None  # column of the first new token
        self._caption_at: tuple[int, int] | None = None  # where a caption began: column, and index in the answer
        self._is_full = False

    @property
    def answers(self) -> list[list[int]]:
        """Token ids, captions and their marks included; `Layout.parts` separates them."""
        return self.decoding.answers

    @property
    def is_done(self) -> bool:
        """Whether the answer has ended, or the context is full."""
        return self.decoding.is_done or self._is_full

    def step(self) -> dict[int, int]:
        """Generate one token, and the image of a caption that ends with it; returns row -> token id."""
        found = self.decoding.step()
        column = self.decoding.cache.length  # of the token generated now
        self._first = column if self._first is None else self._first
        (new,) = found.values()
        self.chosen[0].append(new)
        if self._caption_at is None and new == self._opening:
            self._caption_at = column, len(self.answers[0])
        elif self._caption_at is not None and new == self._closing:
            self._draw(*self._caption_at)
            self._caption_at = None
        if self._context_length is not None and not self.decoding.is_done:
            self._is_full = self._is_full or int(self.decoding.next_positions()) >= self._context_length
        return found

    def _draw(self, column: int, begin: int) -> None:
        """Render the caption at index `begin` of the answer; its image goes to `column`, where the caption began."""
        assert self._first is not None
        ids = self.answers[0][begin:]
        caption = self.layout.tokenizer.decode(ids[:-1] if ids[-1:] == [self._closing] else ids).strip()
        image = self._draw_image(caption, len(self.images))
        self.images.append(image)
        if self.decoding.is_done:
            return
        item, tokens = self._encoder_input(image), self.layout.media("image")
        if self._context_length is not None and column + len(tokens) >= self._context_length:
            self._is_full = True
            return
        sample = Sample("drawn", "drawn", (assistant(Media("image", image)),), (item,))
        batch = stack([sample], [tokens], self.layout.tokenizer.pad_id)
        self.decoding.take_back(column)
        self.model.append(self.decoding, batch.to(self.model.device))
        item = item.to(self.model.device)
        self.chosen[0][column - self._first :] = [MediaPosition("image", item, offset) for offset in range(len(tokens))]


def draw_with(generator: Generator, seed: int | None) -> DrawImage:
    """Renders the k-th image of an answer with a seed of its own, derived from the answer's seed or torch's state."""
    first = int(torch.randint(2**31, ())) if seed is None else seed

    def draw(caption: str, number: int) -> Tensor:
        images = generator.render([caption], [seeds.number(first, "drawing", number)])
        return only_image(images, type(generator).__name__)

    return draw


def only_image(images: object, generator: str) -> Tensor:
    """The image of one caption, uint8[3, H, W]. raises TypeError for other results of a generator"""
    if not isinstance(images, Sequence | Tensor) or len(images) != 1:
        found = f"{len(images)} images" if isinstance(images, Sequence | Tensor) else type(images).__name__
        raise TypeError(f"the generator {generator} returned {found} for 1 caption; expected a list of 1 image")
    return checked_image(images[0], generator)


def checked_image(image: object, generator: str) -> Tensor:
    """The image on the CPU, uint8[3, H, W]. raises TypeError for another dtype or shape"""
    if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        found = f"{image.dtype}{list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"the generator {generator} returned {found}; expected uint8[3, H, W]")
    return image.cpu()
