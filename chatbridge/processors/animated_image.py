"""Animated images (GIF, WebP, APNG) as videos, frame by frame through Pillow; a still image is a video of one frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.processors.image_file import Color, frame_of, open_image
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_source import head_of
from chatbridge.processors.video_index import too_long

_SIGNS = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff")
_MOTION_JPEG = (".mjpeg", ".mjpg")


def is_image_file(ref: str | Path | bytes) -> bool:
    """Whether the first bytes are those of an image file, animated or still."""
    head = head_of(ref)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return True
    return head.startswith(_SIGNS) and (isinstance(ref, bytes) or Path(ref).suffix.lower() not in _MOTION_JPEG)


def read_by_pillow(
    ref: str | Path | bytes, choose: Callable[[int], Sequence[int]], limits: Limits, background: Color | None
) -> list[np.ndarray]:
    """The wanted frames, each uint8[H, W, 3].

    raises   MediaError beyond the limits; what Pillow raises for damaged files
    """
    with open_image(ref, limits.max_pixels) as image:
        picks = choose(_num_allowed(image, limits))
    with open_image(ref, limits.max_pixels) as image:  # a second time: Pillow does not rewind every APNG
        found: dict[int, np.ndarray] = {}
        for number in sorted(set(picks)):
            image.seek(number)
            found[number] = frame_of(image, background)
        return [found[pick] for pick in picks]


def _num_allowed(image: Any, limits: Limits) -> int:
    """Frames within the time limit. raises MediaError for a longer video that is to be refused"""
    shown_s = 0.0
    count = getattr(image, "n_frames", 1)
    for number in range(count):
        if shown_s >= limits.max_seconds:
            if limits.too_long == "refuse":
                raise too_long(limits)
            return number
        image.seek(number)
        image.load()  # some formats have the duration of a frame only after that
        shown_s += image.info.get("duration", 0) / 1000
    return count
