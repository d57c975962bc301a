"""What one media file may cost, what happens to one that costs more, and what all processors have in common."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from chatbridge.common.errors import MediaError, Problem
from chatbridge.config.schema import Range, Unit
from chatbridge.processors.media_source import Ref, check_source, name_of

MB = 1_000_000  # bytes


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the media of a run. What exceeds one cannot be used: it goes to the failure log and is replaced."""

    max_pixels: Annotated[int, Range(low=1)] = 100_000_000  # of a picture or one frame, before it is made smaller
    max_file_mb: Annotated[float, Unit("MB"), Range(above=0)] = 4096.0  # of one media file
    max_seconds: Annotated[float, Unit("seconds"), Range(above=0)] = 14_400.0  # of a video or sound
    too_long: Literal["cut", "refuse"] = "cut"  # cut: only the first max_seconds are looked at; refuse: not used
    time_limit_s: Annotated[float, Unit("seconds"), Range(above=0)] = 60.0  # for reading one sample; beyond: not used
    video_backend: Literal["auto", "decord", "pyav", "torchcodec"] = "auto"  # which library decodes videos
    missing_sound: Literal["say", "refuse"] = "say"  # a video that should have sound and has none: say so, or not used
    sound_note: str = "The video has no sound."  # what the prompt says instead of the sound (missing_sound: say)
    # what training pictures leave the workers as: uint8 is a quarter of the memory, normalised on the device
    pixels: Literal["uint8", "float"] = "uint8"

    def problems(self) -> list[Problem]:
        if self.missing_sound == "say" and not self.sound_note.strip():
            hint = "write what the prompt says, or set missing_sound: refuse"
            return [Problem("sound_note", "is empty, so a prompt could not say that the sound is missing", hint=hint)]
        return []


@dataclass(frozen=True, kw_only=True)
class ChatLimits:
    """Limits of a file in a chat. They are smaller than those of a run: anybody may upload, and somebody waits.

    Decoding happens in a process of its own, which is ended after time_limit_s; the upload is then refused.
    """

    max_pixels: Annotated[int, Range(low=1)] = 50_000_000  # of an image or one frame, before it is made smaller
    max_file_mb: Annotated[float, Unit("MB"), Range(above=0)] = 200.0  # of one file
    max_seconds: Annotated[float, Unit("seconds"), Range(above=0)] = 1800.0  # of a video or audio file
    too_long: Literal["cut", "refuse"] = "refuse"  # cut: only the first max_seconds are used; refuse: not used
    time_limit_s: Annotated[float, Unit("seconds"), Range(above=0)] = 20.0  # for reading one file; beyond: not used
    video_backend: Literal["auto", "decord", "pyav", "torchcodec"] = "auto"  # which library decodes videos

    @property
    def limits(self) -> Limits:
        """For the processors."""
        return Limits(**{field.name: getattr(self, field.name) for field in fields(self)})


class NoSound(MediaError):
    """The file is fine, but there is no sound in it."""


class MediaProcessor:
    """Base of the processors: the limits they keep, and how many frames or clips they take.

    counted   name of the attribute that holds the number of frames or clips; None: always one
    """

    limits: Limits = Limits()
    counted: ClassVar[str | None] = None

    @property
    def count(self) -> int:
        """Frames or clips of one item; 1 for pictures."""
        return getattr(self, self.counted) if self.counted else 1

    def within(self, limits: Limits) -> Self:
        """A copy that keeps these limits."""
        other = copy.copy(self)
        other.limits = limits
        return other

    def taking(self, count: int) -> Self:
        """A copy that takes so many frames or clips; pictures are taken as they are."""
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

    def check_file(self, ref: Ref) -> None:
        """raises MediaError when there is nothing to open, or more than `limits.max_file_mb`"""
        if not isinstance(ref, (str, Path, bytes)):
            return
        check_source(ref)
        size = len(ref) if isinstance(ref, bytes) else _size_of(Path(ref))
        if size > self.limits.max_file_mb * MB:
            limit = f"{self.limits.max_file_mb:g} MB are allowed (data.media.max_file_mb)"
            raise MediaError(f"{name_of(ref)}: the file has {size / MB:.1f} MB, {limit}")


def with_limits(processor: Any, limits: Limits) -> Any:
    """The processor under these limits; one that is not a MediaProcessor (a function of a plugin) stays as it is."""
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
