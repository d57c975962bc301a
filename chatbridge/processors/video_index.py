"""The frames of a video by its packets, so that a wanted frame is found without decoding the others."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import Any, NamedTuple

from chatbridge.common.errors import MediaError
from chatbridge.processors.limits import Limits
from chatbridge.processors.video_keyframes import starts_here

Choose = Callable[[int], Sequence[int]]  # number of frames -> wanted indices, ascending, repeats allowed

# Codecs of which each packet becomes one frame. Others hide frames (VP8) or split them, so that only decoding counts.
ONE_FRAME_PER_PACKET = frozenset({"h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg"})
_NOT_CODED_BYTES = 16  # an MPEG-4 packet this small repeats the frame before it and becomes no frame


class Key(NamedTuple):
    """Where decoding may start, in ticks of the stream: when it is shown, when it is decoded."""

    pts: int
    dts: int


@dataclass(frozen=True)
class FrameIndex:
    """Frames that are shown, in order, and the key frames among them, in ticks of the stream.

    damaged   frames whose own data are damaged, or which may refer to such
    """

    pts: list[int]
    keys: list[Key]
    damaged: frozenset[int] = frozenset()

    def runs(self, wanted: Iterable[int]) -> Iterator[tuple[Key, list[int]]]:
        """Wanted times by the key frame to start from: the last one shown no later than the wanted frame. Frames that
        are shown before a key frame but decoded after it (open groups) need the key frame before."""
        starts = [key.pts for key in self.keys]
        for at, run in groupby(sorted(wanted), lambda pts: bisect_right(starts, pts) - 1):
            yield self.keys[at], list(run)


def frame_index(container: Any, stream: Any, limits: Limits, lost: Sequence[int] = ()) -> FrameIndex | None:
    """The index of a stream of PyAV; all packets are read, none is decoded.

    Frames that an edit list hides are not counted. None where packets do not identify frames: without time stamps, with
    guessed ones (B-frames in AVI or in the order of decoding), with a time stamp twice, with frames before the first
    key frame.

    lost     byte positions before which packets are missing (ts_packet_loss)
    raises   MediaError for a file that ends before its own table of contents does, and for a video that is too long
    """
    context = stream.codec_context
    name = context.codec.canonical_name
    if name not in ONE_FRAME_PER_PACKET or (container.format.name == "avi" and context.has_b_frames):
        return None
    extradata = context.extradata
    shown: list[int] = []
    keys: list[Key] = []
    end = None  # ticks, of the limit
    is_cut = False
    num_packets = 0
    damage = Damage()
    marked: set[int] = set()  # times of the key frames by the container
    for packet in container.demux(stream):
        if not packet.size:  # PyAV's mark of the end
            break
        pts, dts = packet.pts, packet.dts
        if pts is None or (name == "mpeg4" and packet.size < _NOT_CODED_BYTES):
            return None
        end = pts + ticks(limits.max_seconds, packet.time_base) if end is None else end
        if dts is not None and dts > end:
            is_cut = True
            break
        num_packets += 1
        is_key = packet.is_keyframe and starts_here(name, memoryview(packet), extradata)
        if is_key:
            keys.append(Key(pts, pts if dts is None else dts))
        damage.add(packet, is_key)
        if packet.is_keyframe:
            marked.add(pts)
        if not packet.is_discard:
            shown.append(pts)
    if not is_cut and num_packets < len(stream.index_entries):
        raise MediaError(f"it breaks off after {num_packets} of {len(stream.index_entries)} frames")
    if not is_cut and container.format.name.startswith("matroska"):
        _check_table_of_contents(stream, marked)
    in_order = sorted(shown)
    if context.has_b_frames and shown == in_order and len(shown) > 2:  # ASF numbers packets as they are decoded
        return None
    return _checked(in_order, sorted(keys), damage.times(lost), limits, stream.time_base)


def _check_table_of_contents(stream: Any, keys: set[int]) -> None:
    """A damaged Matroska cluster hides everything up to the next one, without an error.

    raises   MediaError when a key frame that the file lists was not found in it
    """
    gone = [entry.timestamp for entry in stream.index_entries if entry.is_keyframe and entry.timestamp not in keys]
    if gone:
        place = f"{float(gone[0] * stream.time_base):.2f} s"
        raise MediaError(f"its data are damaged: {len(gone)} key frames are missing, the first at {place}")


class Damage:
    """Which frames are damaged, by their packets in the order of decoding.

    Damage lasts from a packet that is damaged, or after which others are missing, up to the next intact key frame.
    Frames that are shown before that key frame but decoded after it refer to damaged ones too.
    """

    def __init__(self) -> None:
        self._packets: list[tuple[int, bool, bool]] = []  # time, is it a key frame, is it damaged
        self._positions: list[int] = []  # bytes, ascending

    def add(self, packet: Any, is_key: bool) -> None:
        self._packets.append((packet.pts, is_key, packet.is_corrupt))
        self._positions.append(max(packet.pos or 0, self._positions[-1] if self._positions else 0))

    def times(self, lost: Sequence[int] = ()) -> frozenset[int]:
        """Ticks of the damaged frames; `lost` are byte positions before which packets are missing."""
        before_loss = {bisect_left(self._positions, position) - 1 for position in lost}
        found: set[int] = set()
        lasts, ends_at = False, None  # time of the key frame that ended the damage
        for number, (pts, is_key, is_corrupt) in enumerate(self._packets):
            if is_corrupt or number in before_loss:
                lasts, ends_at = True, None
            elif is_key:
                lasts, ends_at = False, pts if lasts else None
            if lasts or (ends_at is not None and pts < ends_at):
                found.add(pts)
        return frozenset(found)


def _checked(
    shown: list[int], keys: list[Key], damaged: frozenset[int], limits: Limits, time_base: Fraction
) -> FrameIndex | None:
    if not shown:
        return FrameIndex([], [])
    if not keys or shown[0] < keys[0].pts or len(set(shown)) < len(shown):
        return None
    length = bisect_left(shown, shown[0] + ticks(limits.max_seconds, time_base))
    if length < len(shown) and limits.too_long == "refuse":
        raise too_long(limits)
    return FrameIndex(shown[:length], keys, damaged)


def ticks(seconds: float, time_base: Fraction) -> int:
    return round(seconds / time_base)


def damaged(seconds: float | None) -> MediaError:
    place = "" if seconds is None else f" at {seconds:.2f} s"
    return MediaError(f"its data are damaged{place}, and a wanted frame depends on them")


def too_long(limits: Limits) -> MediaError:
    allowed = f"{limits.max_seconds:g} s are allowed (data.media.max_seconds)"
    return MediaError(f"the video is too long: {allowed}; with too_long: cut its beginning is used")
