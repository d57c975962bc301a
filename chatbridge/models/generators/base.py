"""The interface of generators: captions in, images out. They are built for inference only, never in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chatbridge.config.registry import Registry

Watch = Callable[[float], None]  # receives the finished share of a rendering, 0 to 1; it may raise RenderStopped


class RenderError(RuntimeError):
    """No image could be rendered; the message is for the user. The answer continues with the caption."""


class RenderStopped(Exception):
    """The caller no longer needs the image."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Settings all generators share: none so far."""

    def describe(self) -> str:
        """What would be loaded or asked, in one line for `--check`; reads no weights. "" for nothing to add."""
        return ""

    def faults(self) -> Iterator[str]:
        """Why these settings cannot work on this machine, found without reading weights; for `--check`."""
        yield from ()


class Generator(ABC):
    """Draws images. It is not part of the model: it has no trainable parameters and is not in checkpoints."""

    config: GeneratorConfig

    def __init__(self, config: Any) -> None:
        self.config = config

    def load(self, device: torch.device, dtype: torch.dtype) -> str:
        """Load the weights, if it has any, onto `device` in `dtype`; returns a line for the log.

        raises   ValueError when they cannot be loaded
        """
        return f"generator: {type(self).__name__}, without weights"

    @abstractmethod
    def render(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Tensor]:
        """One image for each caption.

        seeds    one for each caption; caption and seed determine the image, independent of the others
        returns  uint8[3, H, W] each, of any size
        raises   RenderError when a caption gives no image. Callers survive every other exception too
        """

    def report(self, share: float) -> None:
        """For `render` to call between its steps, with the finished share, 0 to 1.

        raises   RenderStopped when the image is no longer needed; let it pass
        """
        watch = _watch.get()
        if watch is not None:
            watch(min(max(share, 0.0), 1.0))


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """While it is open, `watch` receives the progress of renderings in this thread; it may raise RenderStopped."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def is_watched() -> bool:
    """Whether somebody in this thread receives the progress of renderings, and so may end them."""
    return _watch.get() is not None


GENERATORS: Registry[Generator] = Registry("generator", "chatbridge.models.generators")

__all__ = [
    "GENERATORS",
    "Generator",
    "GeneratorConfig",
    "RenderError",
    "RenderStopped",
    "Watch",
    "is_watched",
    "watching",
]
