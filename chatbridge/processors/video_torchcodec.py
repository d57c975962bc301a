"""Exact frames by torchcodec, which decodes with the FFmpeg libraries of the system; the interface of video_pyav.

A key frame is a safe place to start only if the frames after it come out one by one as the packets announce them. That
is checked frame by frame: MPEG-TS seeks to a later key frame, and a key frame of an intra refresh yields nothing until
the image is whole. AVI and ASF guess time stamps, which the first frame shows. In all these cases decoding starts at
the beginning of the file.

What video_pyav finds and torchcodec 0.17 does not report: frames that the decoder had to guess because data inside a
packet are damaged, the mirror (not the rotation) of a display matrix, and that a video stream is the cover of an audio
file. It also decodes frames that no other frame refers to. It chooses the same frames as video_pyav, with equal pixels
for 8 bits per sample; videos of 10 bits are converted to RGB with other rounding (0.7 levels on average in the test
file, up to 63 at sharp edges).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import MediaError
from chatbridge.common.extras import need
from chatbridge.processors.container_file import check_content, local_source
from chatbridge.processors.image_file import check_pixels
from chatbridge.processors.limits import Limits
from chatbridge.processors.video_index import ONE_FRAME_PER_PACKET, Choose, damaged, too_long

# MPEG-4 packets may repeat the frame before them, which the list of packets does not show.
COUNTED_BY_PACKETS = ONE_FRAME_PER_PACKET - {"mpeg4"}
NO_LIBRARIES = (
    "torchcodec cannot load the FFmpeg libraries; install FFmpeg 4 to 9 with shared libraries (apt-get install ffmpeg, "
    "or conda install -c conda-forge ffmpeg), or set data.media.video_backend: pyav"
)
NO_TIME_STAMP = -1e12  # seconds; FFmpeg marks a missing time stamp by the smallest integer
_EARLIER_KEYS = 2  # key frames that are tried before decoding starts at the beginning
_DIGITS = 6  # time stamps are compared with limits in microseconds


def read_by_torchcodec(ref: str | Path | bytes, choose: Choose, limits: Limits) -> list[np.ndarray]:
    """The wanted frames, each uint8[H, W, 3] upright, the same as decoding from the start gives.

    raises   MediaError without a video stream, beyond the limits, and for files that break off; ImportError without
             FFmpeg libraries; what torchcodec raises for broken files
    """
    check_content(ref)
    video = Video(ref)
    check_pixels(video.width, video.height, limits.max_pixels)
    times = video.scan() if video.codec in COUNTED_BY_PACKETS else []
    picks = choose(_num_allowed(times, limits) if times else _count(ref, limits))
    found = _sought(video, times, sorted(set(picks))) if times else None
    return _from_start(ref, picks, times) if found is None else [found[pick] for pick in picks]


def rate_by_torchcodec(ref: str | Path | bytes) -> float | None:
    """The average frames per second that the file states; None without. raises as `read_by_torchcodec`"""
    check_content(ref)
    return Video(ref).stated_fps


class Video:
    """The first video stream of an opened file, with a decoder of one thread: loader workers are the parallelism."""

    def __init__(self, ref: str | Path | bytes):
        decoders = need("torchcodec.decoders", "reading videos with video backend torchcodec")
        try:
            self._demuxer: Any = decoders.Demuxer(local_source(ref))
        except ValueError as error:
            raise MediaError("it has no video stream") from error
        except RuntimeError as error:
            if "Could not load libtorchcodec" in str(error):
                raise ImportError(NO_LIBRARIES, name="torchcodec") from error
            raise
        self._stream = self._demuxer.streams[0]
        self._decoder = self._stream.make_decoder(device="cpu", num_ffmpeg_threads=1)
        self._colors = decoders.ColorConverter(device="cpu")
        header = self._stream.metadata
        self.codec: str = header.codec or ""
        self.width, self.height = header.width or 0, header.height or 0
        self.stated_fps: float | None = header.average_fps_from_header
        self.keys: list[int] = []  # numbers of the key frames, known after `scan`

    def scan(self) -> list[float]:
        """Seconds of all frames in the order in which they are shown; [] where packets have no time stamps. No frame is
        decoded.

        raises   MediaError for a file that ends before its own table of contents does
        """
        index, header = self._stream.scan(), self._stream.metadata
        times: list[float] = index.pts_seconds.tolist()
        self.keys = index.key_frame_indices.tolist()
        promised, lasts_s = header.num_frames_from_header or 0, header.duration_seconds_from_header or 0
        if times and promised > len(times):  # some are hidden by an edit list, or missing
            ends_s = index.end_stream_seconds_from_content - times[0]
            if ends_s + lasts_s / promised < lasts_s:
                raise MediaError(f"it breaks off after {len(times)} of {promised} frames")
        return times if times and times[0] > NO_TIME_STAMP else []

    def seek(self, seconds: float) -> None:
        self._demuxer.seek(seconds)
        self._decoder.reset()

    def frames(self) -> Iterator[Any]:
        """Decoded frames (torchcodec's RawFrame) from here to the end, in the order in which they are shown."""
        for packet in self._demuxer:
            yield from self._decoder.decode(packet)
        yield from self._decoder.drain()

    def pixels_of(self, frame: Any) -> np.ndarray:
        """uint8[H, W, 3], upright"""
        return self._colors.convert(frame).data.permute(1, 2, 0).numpy()


def _sought(video: Video, times: Sequence[float], picks: Sequence[int]) -> dict[int, np.ndarray] | None:
    """Number -> pixels of the wanted frames; None where seeking does not lead to all of them."""
    first = next(video.frames(), None)
    if first is None or first.pts_seconds != times[0]:  # guessed time stamps
        return None
    found: dict[int, np.ndarray] = {}
    for number, run in groupby(picks, lambda pick: bisect_right(video.keys, pick) - 1):
        wanted = list(run)
        for key in range(number, max(-1, number - _EARLIER_KEYS), -1):
            part = _after_seek(video, times, times[video.keys[key]], wanted)
            if part is not None:
                found |= part
                break
        else:
            return None
    return found


def _after_seek(
    video: Video, times: Sequence[float], seconds: float, wanted: Sequence[int]
) -> dict[int, np.ndarray] | None:
    """Number -> pixels of the wanted frames after a seek; None unless each frame is the one that the index announces,
    from a key frame at or before the first wanted frame on."""
    video.seek(seconds)
    found: dict[int, np.ndarray] = {}
    number = -1  # of the next frame; -1 until a key frame came out
    for frame in video.frames():
        time = frame.pts_seconds
        if number < 0:
            number = bisect_left(times, time)
            if not _is_start(video, times, number, time, wanted[0]):
                if time >= seconds:
                    return None
                number = -1  # a frame that is shown before the key frame and refers to frames before it
                continue
        elif time != times[number]:
            return None
        if number in wanted:
            found[number] = video.pixels_of(frame)
        number += 1
        if number > wanted[-1]:
            return found
        if number == len(times):
            return None
    return None


def _is_start(video: Video, times: Sequence[float], number: int, time: float, first: int) -> bool:
    """Whether a frame that came out at this time is a key frame at or before the first wanted frame."""
    at = bisect_left(video.keys, number)
    is_key = at < len(video.keys) and video.keys[at] == number
    return is_key and number <= first and times[number] == time


def _from_start(ref: str | Path | bytes, picks: Sequence[int], times: Sequence[float]) -> list[np.ndarray]:
    """Decode everything up to the last wanted frame.

    times    of all frames by their packets; [] where packets do not tell them
    raises   MediaError for a frame that is missing, and for a file that ends before a wanted frame
    """
    video, wanted = Video(ref), set(picks)
    found: dict[int, np.ndarray] = {}
    number, is_in_order = -1, False
    for number, frame in enumerate(video.frames()):
        time = frame.pts_seconds
        if number == 0:
            is_in_order = bool(times) and time == times[0]  # AVI and ASF guess time stamps
        elif is_in_order and number < len(times) and time > times[number]:
            raise damaged(times[number] - times[0])
        if number in wanted:
            found[number] = video.pixels_of(frame)
        if number >= picks[-1]:
            return [found[pick] for pick in picks]
    raise MediaError(f"it breaks off after {number + 1} frames, frame {picks[-1]} was wanted")


def _num_allowed(times: Sequence[float], limits: Limits) -> int:
    """Frames within the time limit. raises MediaError for a longer video that is to be refused"""
    if round(times[-1] - times[0], _DIGITS) < limits.max_seconds:
        return len(times)
    if limits.too_long == "refuse":
        raise too_long(limits)
    return sum(round(time - times[0], _DIGITS) < limits.max_seconds for time in times)


def _count(ref: str | Path | bytes, limits: Limits) -> int:
    """As _num_allowed, by decoding: for codecs whose packets do not tell their frames."""
    times = []
    for frame in Video(ref).frames():
        times.append(frame.pts_seconds if frame.pts_seconds > NO_TIME_STAMP else times[-1] if times else 0.0)
        if round(times[-1] - times[0], _DIGITS) >= limits.max_seconds:
            break
    return _num_allowed(times, limits) if times else 0
