"""What every script that opens a clip needs: its picture stream, sizes, frames the right way up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.processors.container_file import open_container
from chatbridge.processors.media_source import NotAccepted
from dataset_prep.common.workers import Unusable

WHOLE = 0.8  # of a clip must be there; sound may be a little longer than the pictures
EPSILON_S = 1e-4  # time stamps are whole ticks: a frame due at 0.25 s may say 0.24999


def opened(path: Path) -> Any:
    """The container of a file, as PyAV opens it; its name is a name even if it begins like an address ("a:b.mp4").

    raises   Unusable for a pipe or a device, which might never end; whatever PyAV raises for a file it cannot read
    """
    if path.exists() and not path.is_file():
        raise Unusable("is no ordinary file")
    try:
        return open_container(path.absolute())
    except NotAccepted as error:
        raise Unusable("is of a format that is not opened", str(error)) from error


def first_video(container: Any) -> Any:
    """The stream of moving pictures; cover pictures of sound files do not count.

    raises   Unusable when there is none
    """
    for stream in container.streams.video:
        if not stream.disposition & _attached_picture():
            stream.codec_context.thread_count = 1  # clips are spread over processes already
            return stream
    raise Unusable("has no video stream")


def fitted(width: int, height: int, side: int, multiple: int = 1) -> tuple[int, int]:
    """(width, height) with a short side of `side` pixels, never enlarged, each a multiple of `multiple`.

    raises   Unusable for a picture without an area
    """
    if min(width, height) < 1:
        raise Unusable("its pictures have no size", f"{width} x {height} pixels")
    scale = min(1.0, side / min(width, height))
    return _multiple_of(width * scale, multiple), _multiple_of(height * scale, multiple)


def _multiple_of(length: float, multiple: int) -> int:
    return max(multiple, round(length / multiple) * multiple)


def small_frame(frame: Any, side: int, multiple: int = 1) -> np.ndarray:
    """uint8[H, W, 3] of a decoded frame: scaled to a short side of `side`, rotated as its display matrix says."""
    width, height = fitted(frame.width, frame.height, side, multiple)
    pixels = frame.to_ndarray(width=width, height=height, format="rgb24", interpolation="AREA")
    return upright(pixels, frame.rotation)


def upright(pixels: np.ndarray, degrees: float) -> np.ndarray:
    """[H, W, ...] turned counter-clockwise by the nearest quarter of a circle."""
    quarters = round(degrees / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels


def shown_every(container: Any, stream: Any, seconds: float) -> Iterator[Any]:
    """The frame on show at 0, `seconds`, 2 * `seconds` ... after the first one: the same frame again while it stands.

    Decodes in order, so clips of variable rate and clips without an index come out right.
    raises   Unusable at the end for a clip that is not whole
    """
    seen, shown, start, number = Seen(container, stream), None, 0.0, 0
    for frame in container.decode(stream):
        time = seen.time_of(frame)
        start = time if shown is None else start
        while shown is not None and number * seconds < time - start - EPSILON_S:
            yield shown
            number += 1
        shown = frame
    seen.check()
    while number * seconds < seen.length_s() - EPSILON_S:
        yield shown
        number += 1


def step_s(stream: Any) -> float:
    """Seconds from one frame to the next, on average."""
    return float(1 / stream.average_rate) if stream.average_rate else 1 / 25


class Seen:
    """The frames of a clip as they are decoded; says at the end whether the clip was whole.

    Decoders go on in silence when a file is cut off or overwritten: they end early, or show grey and smears.
    """

    def __init__(self, container: Any, stream: Any):
        self._step_s = step_s(stream)
        own = None if stream.duration is None else float(stream.duration * stream.time_base)
        self._declared_s = own if own is not None else (container.duration or 0) / 1e6  # the longest track's
        self.count, self._damaged, self._first_s, self.last_s = 0, 0, 0.0, 0.0

    def time_of(self, frame: Any) -> float:
        """In seconds; a frame without a time follows its predecessor by the average step."""
        time_s = float(frame.time) if frame.time is not None else self.last_s + self._step_s * min(1, self.count)
        self._first_s = self._first_s if self.count else time_s
        self.count, self._damaged, self.last_s = self.count + 1, self._damaged + frame.is_corrupt, time_s
        return time_s

    def length_s(self) -> float:
        return self.last_s - self._first_s + self._step_s

    def check(self) -> None:
        """raises Unusable for a clip without pictures, one that ends much too early, one with many damaged frames"""
        if not self.count:
            raise Unusable("has no pictures")
        if self.length_s() < WHOLE * self._declared_s:
            raise Unusable("breaks off", f"after {self.length_s():.1f} of {self._declared_s:.1f} s")
        if self._damaged > (1 - WHOLE) * self.count:
            raise Unusable("has damaged frames", f"{self._damaged} of {self.count}")


def _attached_picture() -> int:
    from av.stream import Disposition

    return Disposition.attached_pic
