"""Renders captions with a generator. A generator that fails costs its image, never the answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatbridge.common import seeds
from chatbridge.common.log import get_logger
from chatbridge.models.generators import Generator, RenderError, RenderStopped, is_watched

log = get_logger(__name__)
NO_GENERATOR = "the model has no generator (model.generator)"
UNFINISHED = "the answer ended within its caption"


@dataclass(frozen=True)
class Drawn:
    """The image of one caption, or the reason why there is none.

    image    uint8[3, H, W] on the CPU; None without an image
    problem  None with an image
    """

    caption: str
    image: Tensor | None = None
    problem: str | None = None


def drawing_seed(seed: int, number: int) -> int:
    """The seed of the image `number` (from 0) of an answer with this seed."""
    return seeds.number(seed, "drawing", number)


class Artist:
    """Renders the captions of answers. Calls from several threads take turns."""

    def __init__(self, generator: Generator | None, absence: str = NO_GENERATOR) -> None:
        """
        generator  None: no caption gets an image
        absence    the problem of captions without a generator
        """
        self.generator, self.absence = generator, absence
        self._turn = threading.Lock()

    def draw(self, captions: Sequence[str], numbers: Sequence[int]) -> list[Drawn]:
        """The images of some captions, in order. Exceptions of the generator become problems.

        numbers  seed of each image
        raises   RenderStopped when a watcher ends the rendering, see `generators.watching`
        """
        if self.generator is None:
            return [Drawn(caption, problem=self.absence) for caption in captions]
        with self._turn:
            return self._rendered(self.generator, captions, numbers)

    def _rendered(self, generator: Generator, captions: Sequence[str], numbers: Sequence[int]) -> list[Drawn]:
        try:
            with torch.no_grad():
                images = checked_images(generator.render(captions, numbers), len(captions), type(generator).__name__)
            return [Drawn(caption, image) for caption, image in zip(captions, images, strict=True)]
        except Exception as error:  # out of memory, a server that does not answer, a damaged file: the answer goes on
            if isinstance(error, RenderStopped) and is_watched():  # else nobody has asked for it
                raise
            if len(captions) > 1:  # one of them may be the reason
                pairs = zip(captions, numbers, strict=True)
                return [one for caption, number in pairs for one in self._rendered(generator, [caption], [number])]
            is_known = isinstance(error, RenderError)
            log.warning("the generator %s failed: %s", type(generator).__name__, error, exc_info=not is_known)
            return [Drawn(captions[0], problem=_reason(error))]


def _reason(error: Exception) -> str:
    """Why there is no image, in one line."""
    message, kind = " ".join(str(error).split()), type(error).__name__
    if isinstance(error, RenderError) and message:
        return message
    return f"{kind}: {message}" if message else kind


def checked_images(images: object, count: int, generator: str) -> list[Tensor]:
    """The images of `count` captions, uint8[3, H, W] each. raises TypeError for other results of a generator"""
    if not isinstance(images, Sequence | Tensor) or isinstance(images, str | bytes) or len(images) != count:
        found = f"{len(images)} images" if isinstance(images, Sequence | Tensor) else type(images).__name__
        asked = f"{count} caption{'s' * (count > 1)}"
        wanted = f"a list of {count} image{'s' * (count > 1)}"
        raise TypeError(f"the generator {generator} returned {found} for {asked}; expected {wanted}")
    return [checked_image(image, generator) for image in images]


def checked_image(image: object, generator: str) -> Tensor:
    """The image on the CPU, uint8[3, H, W]. raises TypeError for another dtype or shape"""
    is_image = isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3
    if isinstance(image, Tensor) and is_image and image.numel():
        return image.cpu()
    found = f"{image.dtype}{list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
    raise TypeError(f"the generator {generator} returned {found}; expected uint8[3, H, W]")


__all__ = ["NO_GENERATOR", "UNFINISHED", "Artist", "Drawn", "checked_image", "checked_images", "drawing_seed"]
