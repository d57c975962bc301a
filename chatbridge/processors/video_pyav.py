"""Exact frames by PyAV: seek to the key frame before a wanted frame, skip unreferenced frames, stop after it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import MediaError
from chatbridge.processors.container_file import decodable, open_container
from chatbridge.processors.image_file import check_pixels
from chatbridge.processors.limits import Limits
from chatbridge.processors.ts_packet_loss import lost_positions
from chatbridge.processors.video_index import Choose, Damage, FrameIndex, Key, damaged, frame_index, too_long

# Decoders that can skip, packet by packet, the frames that no other frame refers to: about half of the frames of usual
# H.264. The other frames are bit for bit the same.
SKIPS_UNREFERENCED = frozenset({"h264"})


def read_by_pyav(ref: str | Path | bytes, choose: Choose, limits: Limits) -> list[np.ndarray]:
    """The wanted frames, each uint8[H, W, 3] upright, the same as decoding from the start gives.

    raises   MediaError without a video stream, for damaged or missing data up to a wanted frame, and beyond the limits
    """
    from chatbridge.common.extras import need

    need("av", "reading videos with video backend pyav")
    with open_container(ref) as container:
        stream = video_stream(container)
        check_pixels(stream.codec_context.width, stream.codec_context.height, limits.max_pixels)
        stream.thread_count = 1  # loader workers are the parallelism; starting threads costs more than a short video
        lost = lost_positions(ref, stream.id) if container.format.name == "mpegts" else []
        index = frame_index(container, stream, limits, lost)
        if index is not None:
            picks = choose(len(index.pts))
            wanted = [index.pts[pick] for pick in picks]
            for pts in wanted:
                if pts in index.damaged:
                    raise damaged(float((pts - index.pts[0]) * stream.time_base))
            found = _seek(container, stream, index, set(wanted))
            if len(found) == len(set(wanted)):
                return [found[pts] for pts in wanted]
            choose = _same(picks)
    return _from_start(ref, choose, limits, lost)


def examine_by_pyav(ref: str | Path | bytes, limits: Limits) -> None:
    """Decode every frame within the time limit and keep none. raises MediaError for a damaged one"""
    with open_container(ref) as container:
        stream = video_stream(container)
        lost = lost_positions(ref, stream.id) if container.format.name == "mpegts" else []
        index = frame_index(container, stream, limits, lost)
    times = None if index is None else frozenset(index.pts)
    by_packets = _damaged_times(ref, lost) if index is None else index.damaged
    first = None
    for frame in _all_frames(ref):
        first = frame.time if first is None else first
        if first is not None and frame.time is not None and frame.time - first >= limits.max_seconds:
            return
        if (times is None or frame.pts in times) and (frame.is_corrupt or frame.pts in by_packets):
            raise damaged(_seconds(frame))


def video_stream(container: Any) -> Any:
    """The first video stream that is not the cover image of an audio file.

    raises   MediaError when there is none, or its codec is unknown
    """
    for stream in container.streams.video:
        if not stream.disposition & type(stream.disposition).attached_pic:
            return decodable(stream)
    raise MediaError("it has no video stream")


def _seek(container: Any, stream: Any, index: FrameIndex, wanted: set[int]) -> dict[int, np.ndarray]:
    """Time -> pixels of the wanted frames that were decoded; some are missing where the key frame is not enough (an
    intra refresh, a container that seeks too far)."""
    found: dict[int, np.ndarray] = {}
    for key, run in index.runs(wanted):
        found |= _run(container, stream, key, set(run))
    return found


def _run(container: Any, stream: Any, key: Key, wanted: set[int]) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    for frame in _frames_from(container, stream, key, wanted):
        if frame.pts is None or frame.pts < key.pts:
            continue
        if frame.is_corrupt:
            raise damaged(_seconds(frame))
        if frame.pts in wanted:
            found[frame.pts] = pixels_of(frame)
            if len(found) == len(wanted):
                break
    return found


def _frames_from(container: Any, stream: Any, key: Key, wanted: set[int]) -> Iterator[Any]:
    """Decoded frames from a key frame on, up to the wanted ones; unreferenced frames are left out, unless wanted."""
    context = stream.codec_context
    skips = context.name in SKIPS_UNREFERENCED
    num_missing = len(wanted)
    for packet in _packets_from(container, stream, key):
        is_wanted = packet.pts in wanted
        if skips:
            context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
        yield from context.decode(packet)
        num_missing -= is_wanted
        if not num_missing:  # the decoder delays frames to put them in order; it needs no more packets for these
            yield from context.decode(None)
            return


def _packets_from(container: Any, stream: Any, key: Key) -> Iterator[Any]:
    """Packets from a key frame or a packet before it on; none when the container cannot seek there."""
    for at in dict.fromkeys(key):  # some containers seek by the time a frame is shown, some by the time it is decoded
        container.seek(at, stream=stream, backward=True)
        packets = container.demux(stream)
        first = next(packets, None)
        if first is not None and first.size and (key.dts if first.dts is None else first.dts) <= key.dts:
            return chain([first], packets)
    return iter(())


def _from_start(ref: str | Path | bytes, choose: Choose, limits: Limits, lost: Sequence[int]) -> list[np.ndarray]:
    """For files whose packets do not identify frames: decode to count, then decode up to the last wanted frame."""
    picks = choose(_count(ref, limits))
    wanted = set(picks)
    found: dict[int, np.ndarray] = {}
    number = -1
    is_damaged = False
    by_packets = _damaged_times(ref, lost)
    for number, frame in enumerate(_all_frames(ref)):
        is_damaged = frame.is_corrupt or (is_damaged and not frame.key_frame)
        if number in wanted:
            if is_damaged or frame.pts in by_packets:
                raise damaged(_seconds(frame))
            found[number] = pixels_of(frame)
        if number >= picks[-1]:
            return [found[pick] for pick in picks]
    raise MediaError(f"it breaks off after {number + 1} frames, frame {picks[-1]} was wanted")


def _damaged_times(ref: str | Path | bytes, lost: Sequence[int]) -> frozenset[int]:
    """Times of frames that are damaged by their packets, in ticks."""
    with open_container(ref) as container:
        stream, damage = video_stream(container), Damage()
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None:
                damage.add(packet, packet.is_keyframe)
    return damage.times(lost)


def _count(ref: str | Path | bytes, limits: Limits) -> int:
    """Frames within the time limit. raises MediaError for a longer video that is to be refused"""
    first = None
    count = 0
    for count, frame in enumerate(_all_frames(ref), 1):
        first = frame.time if first is None else first
        if first is not None and frame.time is not None and frame.time - first >= limits.max_seconds:
            if limits.too_long == "refuse":
                raise too_long(limits)
            return count - 1
    return count


def _all_frames(ref: str | Path | bytes) -> Iterator[Any]:
    with open_container(ref) as container:
        stream = video_stream(container)
        stream.thread_count = 1
        yield from container.decode(stream)


def _same(picks: Sequence[int]) -> Choose:
    return lambda _: picks


def _seconds(frame: Any) -> float | None:
    """When a frame is shown; None where that is not known: a time base may be 0 / 0."""
    return frame.time if frame.time is not None and math.isfinite(frame.time) else None


def pixels_of(frame: Any) -> np.ndarray:
    """uint8[H, W, 3], rotated and mirrored as the display matrix of the file asks.

    The matrix itself is read only where PyAV finds a rotation (a mirror from left to right counts as one, from top to
    bottom alone does not): reading the side data of a frame creates a reference cycle, so loader workers grow until the
    garbage collector runs.
    """
    pixels = frame.to_ndarray(format="rgb24")
    for side in frame.side_data if frame.rotation else ():
        if side.type.name == "DISPLAYMATRIX":
            pixels = displayed(pixels, np.frombuffer(bytes(side), np.int32))
    return pixels


def displayed(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """uint8[H, W, 3] by a display matrix int32[9]: x' = a x + c y, y' = b x + d y (a, b, u, c, d, v, x, y, w), brought
    to the nearest quarter turn."""
    a, b, c, d = (int(matrix[at]) for at in (0, 1, 3, 4))
    is_on_side = abs(b) > abs(a)
    pixels = pixels.swapaxes(0, 1) if is_on_side else pixels
    step_x = -1 if (c if is_on_side else a) < 0 else 1
    step_y = -1 if (b if is_on_side else d) < 0 else 1
    return np.ascontiguousarray(pixels[::step_y, ::step_x])
