"""Opening a video: its video stream, target sizes, rotated frames, and the check that it is complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.processors.container_file import open_container
from chatbridge.processors.media_source import NotAccepted
from dataset_prep.common.workers import Unusable

COMPLETE = 0.8  # least share of the declared duration; an audio track may be longer than the frames
EPSILON_S = 1e-4  # time stamps are whole ticks: a frame at 0.25 s may have 0.24999


def opened(path: Path) -> Any:
    """The PyAV container of a file, also when its name looks like a URL ("a:b.mp4").

    raises   Unusable for a pipe or a device, which might never end; any error of PyAV for an unreadable file
    """
    if path.exists() and not path.is_file():
        raise Unusable("is not a regular file")
    try:
        return open_container(path.absolute())
    except NotAccepted as error:
        raise Unusable("has a format that is not allowed", str(error)) from error


def first_video(container: Any) -> Any:
    """The first video stream; cover images of audio files do not count.

    raises   Unusable when there is none
    """
    for stream in container.streams.video:
        if not stream.disposition & _attached_picture():
            stream.codec_context.thread_count = 1  # videos are distributed over processes already
            return stream
    raise Unusable("has no video stream")


def fitted(width: int, height: int, side: int, multiple: int = 1) -> tuple[int, int]:
    """(width, height) with a short side of `side` pixels, never enlarged, each a multiple of `multiple`.

    raises   Unusable for a frame without an area
    """
    if min(width, height) < 1:
        raise Unusable("its frames have no size", f"{width} x {height} pixels")
    scale = min(1.0, side / min(width, height))
    return _multiple_of(width * scale, multiple), _multiple_of(height * scale, multiple)


def _multiple_of(length: float, multiple: int) -> int:
    return max(multiple, round(length / multiple) * multiple)


def small_frame(frame: Any, side: int, multiple: int = 1) -> np.ndarray:
    """A decoded frame, scaled to a short side of `side` and rotated by its display matrix.

    returns   uint8[H, W, 3]
    """
    width, height = fitted(frame.width, frame.height, side, multiple)
    pixels = frame.to_ndarray(width=width, height=height, format="rgb24", interpolation="AREA")
    return upright(pixels, frame.rotation)


def upright(pixels: np.ndarray, degrees: float) -> np.ndarray:
    """Pixels rotated counter-clockwise by the nearest multiple of 90 degrees.

    pixels   uint8[H, W, ...]
    """
    quarters = round(degrees / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels


def frames_every(container: Any, stream: Any, seconds: float) -> Iterator[Any]:
    """The frame displayed at 0, `seconds`, 2 * `seconds` ... after the first one; a frame may occur several times.

    Decodes in order, which is also correct for a variable frame rate and a video without an index.
    raises   Unusable at the end for an incomplete video
    """
    decoded, shown, start, number = DecodedFrames(container, stream), None, 0.0, 0
    for frame in container.decode(stream):
        time = decoded.time_of(frame)
        start = time if shown is None else start
        while shown is not None and number * seconds < time - start - EPSILON_S:
            yield shown
            number += 1
        shown = frame
    decoded.check()
    while number * seconds < decoded.length_s() - EPSILON_S:
        yield shown
        number += 1


def step_s(stream: Any) -> float:
    """Mean seconds between two frames."""
    return float(1 / stream.average_rate) if stream.average_rate else 1 / 25


class DecodedFrames:
    """Statistics of decoded frames, which show at the end whether the video was complete.

    Decoders report no error for a truncated or overwritten file: they end early or return damaged frames.
    """

    def __init__(self, container: Any, stream: Any):
        self._step_s = step_s(stream)
        own = None if stream.duration is None else float(stream.duration * stream.time_base)
        self._declared_s = own if own is not None else (container.duration or 0) / 1e6  # of the longest track
        self.count, self._damaged, self._first_s, self.last_s = 0, 0, 0.0, 0.0

    def time_of(self, frame: Any) -> float:
        """The time of a frame in seconds; without a time stamp it is one mean step after the previous frame."""
        time_s = float(frame.time) if frame.time is not None else self.last_s + self._step_s * min(1, self.count)
        self._first_s = self._first_s if self.count else time_s
        self.count, self._damaged, self.last_s = self.count + 1, self._damaged + frame.is_corrupt, time_s
        return time_s

    def length_s(self) -> float:
        return self.last_s - self._first_s + self._step_s

    def check(self) -> None:
        """raises Unusable for a video without frames, one that ends too early, or one with many damaged frames"""
        if not self.count:
            raise Unusable("has no frames")
        if self.length_s() < COMPLETE * self._declared_s:
            raise Unusable("is truncated", f"after {self.length_s():.1f} of {self._declared_s:.1f} s")
        if self._damaged > (1 - COMPLETE) * self.count:
            raise Unusable("has damaged frames", f"{self._damaged} of {self.count}")


def _attached_picture() -> int:
    from av.stream import Disposition

    return Disposition.attached_pic
