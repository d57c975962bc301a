"""Lengths that a header only estimates, found by walking through the file: MP3 frames, and links of an Ogg chain."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from chatbridge.common.errors import MediaError
from chatbridge.processors.media_source import id3_size

_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # MPEG 1, 2, 2.5
_KBPS = {  # (is it MPEG 1, layer) -> by the index in the header
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HEADER_FRAME = re.compile(rb"^\0{0,32}[^\xff]{0,4}\0*(Xing|Info)")
_OGG_HEAD, _OGG_BEGINS = 27, 0x02

Content = bytes | mmap.mmap


def content_of(ref: str | Path | bytes) -> Content:
    if isinstance(ref, bytes):
        return ref
    with open(ref, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def mp3_parts(data: Content) -> list[tuple[int, int]]:
    """Start and number of samples of each MP3 file in this one: one entry for a usual file. Another file begins with a
    tag, or with a frame that is a header (Xing, Info)."""
    parts: list[tuple[int, int]] = []
    at, begin, total = 0, 0, 0
    while 0 <= at < len(data) - 4:
        is_tag = data[at : at + 3] == b"ID3"
        if total and (is_tag or _HEADER_FRAME.search(data[at + 4 : at + 44])):
            parts.append((begin, total))
            begin, total = at, 0
        if is_tag:
            at += id3_size(data[at : at + 10]) or 3
            continue
        frame = _frame(data[at : at + 4])
        if frame is None:
            at = data.find(b"\xff", at + 1)
            continue
        size, samples = frame
        total += samples
        at += size
    return [*parts, (begin, total)]


def _frame(head: bytes) -> tuple[int, int] | None:
    """Bytes and samples of the frame with this header; None when it is not a frame header."""
    if head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate_index, kbps_index = head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or kbps_index in (0, 15):
        return None
    is_first = version == 3
    rate_hz, kbps, padding = _RATES_HZ[version][rate_index], _KBPS[is_first, layer][kbps_index], head[2] >> 1 & 1
    if layer == 1:
        return (12_000 * kbps // rate_hz + padding) * 4, 384
    samples = 1152 if is_first or layer == 2 else 576
    return samples // 8 * 1000 * kbps // rate_hz + padding, samples


def ogg_links(data: Content) -> list[int]:
    """Where the parts of a chained Ogg file begin: one position for a usual file, none for other formats.

    raises   MediaError when a page between two others is missing, which decoders skip silently
    """
    links: list[int] = []
    numbers: dict[bytes, int] = {}  # serial number of a stream -> number of its last page
    at, was_begin = 0, False
    while data[at : at + 4] == b"OggS" and at + _OGG_HEAD <= len(data):
        begins = bool(data[at + 5] & _OGG_BEGINS)
        if begins and not was_begin:
            links.append(at)
        was_begin = begins
        serial, number = data[at + 14 : at + 18], int.from_bytes(data[at + 18 : at + 22], "little")
        if not begins and number != numbers.get(serial, number - 1) + 1:
            raise MediaError("its data are damaged: pages of the Ogg file are missing")
        numbers[serial] = number
        segments = data[at + 26]
        at += _OGG_HEAD + segments + sum(data[at + _OGG_HEAD : at + _OGG_HEAD + segments])
        if data[at : at + 4] != b"OggS":  # damage: continue at the next page
            at = max(0, data.find(b"OggS", at)) or len(data)
    return links
