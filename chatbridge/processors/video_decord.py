"""Frames by decord, with the interface of video_pyav.

Errors of decord 0.6 (measured against decoding from the start): frames at the borders of open groups and after an intra
refresh, frames of AVI, MPEG-TS and of files cut by an edit list are neighbours of the wanted ones; AV1 is not decoded;
rotated videos less than 64 pixels wide are refused. video_pyav is exact for all of these.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import MediaError
from chatbridge.processors.container_file import check_content, local_source
from chatbridge.processors.image_file import check_pixels
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_source import opened
from chatbridge.processors.video_index import Choose, too_long


def read_by_decord(ref: str | Path | bytes, choose: Choose, limits: Limits) -> list[np.ndarray]:
    """The wanted frames, each uint8[H, W, 3]; upright, as decord rotates them.

    raises   MediaError without a video stream and beyond the limits; decord's own errors for broken files
    """
    with opened_by_decord(ref) as reader:
        return _read(reader, choose, limits)


def rate_by_decord(ref: str | Path | bytes) -> float:
    """The average frames per second. raises as `read_by_decord`"""
    with opened_by_decord(ref) as reader:
        return reader.get_avg_fps()


@contextmanager
def opened_by_decord(ref: str | Path | bytes) -> Iterator[Any]:
    from chatbridge.common.extras import need

    decord = need("decord", "reading videos with video backend decord")
    decord.logging.set_level(decord.logging.QUIET)
    check_content(ref)
    try:
        with silent_stderr():
            yield decord.VideoReader(opened(local_source(ref)), num_threads=1)
    except decord.DECORDError as error:
        if "cannot find video stream" in str(error):
            raise MediaError("it has no video stream") from error
        raise


def _read(reader: Any, choose: Choose, limits: Limits) -> list[np.ndarray]:
    if len(reader):
        height, width = reader[0].shape[:2]  # decord reports the size of decoded frames only
        check_pixels(width, height, limits.max_pixels)
    picks = choose(num_allowed(reader, limits))
    wanted = sorted(set(picks))
    found = dict(zip(wanted, reader.get_batch(wanted).asnumpy(), strict=True))
    return [found[pick] for pick in picks]


def num_allowed(reader: Any, limits: Limits) -> int:
    """Frames within the time limit. raises MediaError for a longer video that is to be refused"""
    length = len(reader)
    if length < 2:
        return length
    starts = reader.get_frame_timestamp([0, length - 1])[:, 0]  # seconds
    if starts[1] - starts[0] < limits.max_seconds:
        return length
    if limits.too_long == "refuse":
        raise too_long(limits)
    starts = reader.get_frame_timestamp(list(range(length)))[:, 0]
    return int((starts - starts[0] < limits.max_seconds).sum())


@contextmanager
def silent_stderr() -> Iterator[None]:
    """decord writes messages about broken files to stderr itself. They are dropped in a worker process, where nothing
    else writes at that moment, and kept elsewhere, where another thread might be writing."""
    if multiprocessing.parent_process() is None:
        yield
        return
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
