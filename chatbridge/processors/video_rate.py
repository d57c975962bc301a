"""Frames per second of a video, by the first library that is installed."""

from __future__ import annotations

from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

from chatbridge.processors.animated_image import is_image_file
from chatbridge.processors.container_file import open_container
from chatbridge.processors.image_file import open_image
from chatbridge.processors.limits import Limits
from chatbridge.processors.video_decord import rate_by_decord
from chatbridge.processors.video_pyav import video_stream
from chatbridge.processors.video_torchcodec import rate_by_torchcodec

MOST = 100_000  # of the denominator: a float of 30000/1001 becomes that fraction again


def frames_per_second(ref: str | Path | bytes, max_pixels: int = Limits.max_pixels) -> Fraction | None:
    """The average over the video; None for a folder of frames, a still image, and a file that does not contain it.

    raises   what the decoder raises for a broken file
    """
    if not isinstance(ref, bytes) and Path(ref).is_dir():
        return None
    if is_image_file(ref):
        return _of_animation(ref, max_pixels)
    if find_spec("av") is not None:
        with open_container(ref) as container:
            rate = video_stream(container).average_rate
        return _positive(rate)
    if find_spec("decord") is not None:
        return _positive(rate_by_decord(ref))
    if find_spec("torchcodec") is not None:
        return _positive(rate_by_torchcodec(ref))
    return None


def _of_animation(ref: str | Path | bytes, max_pixels: int) -> Fraction | None:
    with open_image(ref, max_pixels) as image:
        count, shown_ms = getattr(image, "n_frames", 1), 0
        for number in range(count):
            image.seek(number)
            image.load()
            shown_ms += round(image.info.get("duration", 0))
    return Fraction(1000 * count, shown_ms).limit_denominator(MOST) if count > 1 and shown_ms else None


def _positive(rate: Fraction | float | None) -> Fraction | None:
    return Fraction(rate).limit_denominator(MOST) if rate else None
