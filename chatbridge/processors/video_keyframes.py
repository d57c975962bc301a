"""Whether decoding may start at a packet that a container marks as a key frame."""

from __future__ import annotations

import re
from collections.abc import Iterator

_H264_IDR, _H264_SEI = 5, 6
_SEI_RECOVERY_POINT = 6
_HEVC_RANDOM_ACCESS = range(16, 22)  # types of NAL units: BLA, IDR, CRA
_HEAD = 64  # bytes; longer messages come alone or last
_START_CODE = re.compile(b"\x00\x00\x01")


def starts_here(codec: str, packet: memoryview, extradata: bytes | None) -> bool:
    """Whether the frame of this packet needs no frame before it.

    H.264 with intra refresh has no such frame but the first: its "key frames" are points from which the image becomes
    whole within some frames. True for codecs whose key frames are always such frames.
    Source: ITU-T H.264, 7.4.1 (NAL unit types), D.1.8 (recovery point); ITU-T H.265, table 7-1.
    """
    if codec == "h264":
        return any(_h264_starts(unit) for unit in nal_units(packet, _length_bytes(extradata, 4)))
    if codec == "hevc":
        units = nal_units(packet, _length_bytes(extradata, 21))
        return any((unit[0] >> 1) & 0x3F in _HEVC_RANDOM_ACCESS for unit in units)
    return True


def _h264_starts(unit: memoryview) -> bool:
    kind = unit[0] & 0x1F
    return kind == _H264_IDR or (kind == _H264_SEI and _recovers_at_once(unit))


def _recovers_at_once(unit: memoryview) -> bool:
    """Whether one of the messages (type, size, payload) is a recovery point that counts 0 frames: first bit set."""
    at = 1
    while at + 2 < len(unit):
        kind, size = unit[at], unit[at + 1]
        if kind == _SEI_RECOVERY_POINT:
            return unit[at + 2] & 0x80 != 0
        at += 2 + size
    return False


def _length_bytes(extradata: bytes | None, at: int) -> int:
    """Bytes of the length before each NAL unit, 0 where start codes separate them."""
    if not extradata or len(extradata) <= at or extradata[0] != 1:
        return 0
    return (extradata[at] & 3) + 1


def nal_units(packet: memoryview, length_bytes: int) -> Iterator[memoryview]:
    """The first bytes of each NAL unit of a packet."""
    if not length_bytes:
        yield from (packet[found.end() : found.end() + _HEAD] for found in _START_CODE.finditer(packet))
        return
    at = 0
    while at + length_bytes < len(packet):
        start = at + length_bytes
        yield packet[start : start + _HEAD]
        at = start + int.from_bytes(packet[at:start], "big")
