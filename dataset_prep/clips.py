"""What every script that opens a clip needs: its picture stream, sizes, frames the right way up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dataset_prep.workers import Unusable

EPSILON_S = 1e-4  # time stamps are whole ticks: a frame due at 0.25 s may say 0.24999


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

    Decodes in order, so clips of variable rate and clips without an index come out right. A clip that breaks off gives
    what there is before the break.
    """
    shown: Any = None
    start, number, time = 0.0, 0, 0.0
    for frame, time in timed(container, stream):
        start = time if shown is None else start
        while shown is not None and number * seconds < time - start - EPSILON_S:
            yield shown
            number += 1
        shown = frame
    while shown is not None and number * seconds < time - start + step_s(stream) - EPSILON_S:
        yield shown
        number += 1


def step_s(stream: Any) -> float:
    """Seconds from one frame to the next, on average."""
    return float(1 / stream.average_rate) if stream.average_rate else 1 / 25


def timed(container: Any, stream: Any) -> Iterator[tuple[Any, float]]:
    """Decoded frames with their time in seconds; a frame without one follows its predecessor by the average step."""
    step = step_s(stream)
    time = -step
    for frame in container.decode(stream):
        time = time + step if frame.time is None else float(frame.time)
        yield frame, time


def _attached_picture() -> int:
    from av.stream import Disposition

    return Disposition.attached_pic
