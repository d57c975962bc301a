"""What all processors have in common: the contract, the limits they keep, and how many pieces of an item they take."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

from chatbridge.common.errors import MediaError
from chatbridge.processors.limits import MB, Limits
from chatbridge.processors.media_source import Ref, Rolled, check_source, name_of

if TYPE_CHECKING:  # scripts of dataset_prep read media without torch
    from torch import Tensor


class PieceCountError(ValueError):
    """A processor cannot make so many pieces of an item."""


class Processor(Protocol):
    """Reads one media item into the input of one encoder.

    rng      given in training (random choices allowed), None in evaluation (the same every time)
    returns  float[...] or uint8[...], the input of the encoder for one item (see each processor)
    raises   MediaError with a reason when the item cannot be read
    """

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Tensor: ...


class MediaProcessor:
    """Base of the processors: the limits they keep, and how many frames or clips they take.

    counted      name of the attribute that holds the number of frames or clips; None: always one
    reads_pairs  whether it makes one image of two files (SideBySide)
    """

    limits: Limits = Limits()
    counted: ClassVar[str | None] = None
    reads_pairs: ClassVar[bool] = False

    @property
    def count(self) -> int:
        """Frames or clips of one item; 1 for images."""
        return getattr(self, self.counted) if self.counted else 1

    @property
    def item_shape(self) -> tuple[int, ...] | None:
        """Shape of one item, where it is known before one is read; None where it is not."""
        return None

    @property
    def draws(self) -> str | None:
        """What training draws at random from an item; None: nothing, so that its features may be cached."""
        if self.counted is None or self.limits.piece_choice == "fixed":
            return None
        return (
            f"{self.counted.removeprefix('num_')} are drawn at random; data.media.piece_choice: fixed takes fixed ones"
        )

    def piece_rng(self, rng: np.random.Generator | None) -> np.random.Generator | None:
        """What the choice of frames or clips draws from; None: the fixed choice of evaluation."""
        return None if self.limits.piece_choice == "fixed" else rng

    def within(self, limits: Limits) -> Self:
        """A copy that keeps these limits."""
        other = copy.copy(self)
        other.limits = limits
        return other

    def taking(self, count: int) -> Self:
        """A copy that takes so many frames or clips; a processor of images is returned unchanged."""
        if self.counted is None or count == self.count:
            return self
        other = copy.copy(self)
        setattr(other, self.counted, count)
        return other

    def examine(self, ref: Ref) -> None:
        """Read everything that training could read of an item, not a choice of it.

        raises   MediaError for damage anywhere within the limits
        """
        read: Any = self
        read(ref)

    def check_file(self, ref: Ref | Rolled) -> None:
        """raises MediaError when there is nothing to open, or more than `limits.max_file_mb`"""
        ref = ref.ref if isinstance(ref, Rolled) else ref
        if not isinstance(ref, (str, Path, bytes)):
            return
        check_source(ref)
        size = len(ref) if isinstance(ref, bytes) else _size_of(Path(ref))
        if size > self.limits.max_file_mb * MB:
            limit = f"{self.limits.max_file_mb:g} MB are allowed (data.media.max_file_mb)"
            raise MediaError(f"{name_of(ref)}: the file has {size / MB:.1f} MB, {limit}")


def ready_item(ref: Tensor) -> Tensor:
    """A tensor float[...] that is the input of an encoder already, in fp32.

    raises   MediaError for values that are not numbers: the loss of the whole batch would not be one either
    """
    if not bool(ref.isfinite().all()):
        raise MediaError(f"{name_of(ref)}: it holds values that are not numbers (nan, inf)")
    return ref.float()


def with_limits(processor: Any, limits: Limits) -> Any:
    """The processor under these limits; one that is not a MediaProcessor (a function of a plugin) stays unchanged."""
    return processor.within(limits) if hasattr(processor, "within") else processor


def taking(processor: Any, count: int) -> Any:
    """The processor with so many pieces per item. raises ValueError for one whose number of pieces cannot be set"""
    if hasattr(processor, "taking"):
        return processor.taking(count)
    if getattr(processor, "count", 1) == count:
        return processor
    name = getattr(processor, "__name__", type(processor).__name__)
    raise ValueError(f"{name} cannot take {count} pieces of an item: it has no method `taking`, see MediaProcessor")


def _size_of(path: Path) -> int:
    """Bytes of a file; a folder of frames is counted frame by frame when they are read."""
    return 0 if path.is_dir() else os.stat(path).st_size
