"""Headers that state less audio than the file holds: a recorder that stopped before it updated them, files joined
together. Audio that decoders would skip silently is a failure here; real chunks and tags after the audio are not."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from chatbridge.common.errors import MediaError
from chatbridge.processors.media_source import NoAudio, opened

_SLACK = 512  # bytes after the audio that are ignored whatever they are
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")
_WHOLE_FILES = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"data", b"SSND")  # as a chunk after the audio: more audio
_TO_THE_END = (0xFFFFFFFF, (1 << 64) - 1)  # sizes that mean "until the file ends"
_READ_BLOCK = 1 << 20
_FLAC_TAIL = 1 << 20  # bytes at the end in which the last frame of a FLAC is searched
_FLAC_FRAME_HEAD = 16  # bytes at most

_Chunk = struct.Struct  # name and size


def check_header(ref: str | Path | bytes) -> None:
    """raises MediaError when a WAV, AIFF, AU, CAF or FLAC header states less audio than follows, NoAudio when it states
    none and none follows"""
    content = opened(ref)
    with open(content, "rb") if isinstance(content, str) else content as file:
        head = file.read(12)
        if head[:4] == b"fLaC":
            _check_flac(file)
        elif (found := _declared(file, head)) is not None:
            _check_end(file, *found, reads_none_to_the_end=head[:4] in (b"RIFF", b"caff"))


def _check_end(file: BinaryIO, begin: int, stated: int, chunk: _Chunk | None, reads_none_to_the_end: bool) -> None:
    file_end = file.seek(0, os.SEEK_END)
    if stated in _TO_THE_END or begin + stated >= file_end:
        return
    is_more = _is_more(file, begin + stated, file_end, chunk)
    if not stated and not is_more:
        raise NoAudio("the audio is empty (0 samples)")
    if is_more and (stated or not reads_none_to_the_end):
        raise MediaError(_words(stated, file_end - begin - stated))


def _words(stated: int, more: int) -> str:
    return (
        f"its header states {stated} bytes of audio, and {more} bytes that are neither metadata nor tags follow: the "
        "recorder did not update the header, or files were joined; write the file again (WAV: ffmpeg -ignore_length 1 "
        "-i OLD NEW), or cut it to the stated length"
    )


def _declared(file: BinaryIO, head: bytes) -> tuple[int, int, _Chunk | None] | None:
    """Where the audio begins, its stated bytes, and the form of chunks in this file (None: it has none); None for other
    formats and when there is no audio chunk."""
    if head[:4] == b".snd" and len(head) == 12:
        begin, stated = struct.unpack(">II", head[4:])
        return begin, stated, None
    if head[:4] == b"caff":
        return _found(file, 8, b"data", struct.Struct(">4sQ"))
    if head[8:12] in (b"AIFF", b"AIFC") and head[:4] == b"FORM":
        found = _found(file, 12, b"SSND", struct.Struct(">4sI"))
        if not found or not found[1]:  # libsndfile reads a chunk of size 0 until the end
            return None
        return found[0] + 8, max(found[1] - 8, 0), found[2]  # 8 bytes of offset and block size come first
    if head[8:12] == b"WAVE" and head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        found = _found(file, 12, b"data", struct.Struct(">4sI" if head[:4] == b"RIFX" else "<4sI"))
        if found and head[:4] in (b"RF64", b"BW64") and found[1] == _TO_THE_END[0]:
            file.seek(20)  # ds64: size of the file, then that of the audio
            sizes = file.read(16)
            return (found[0], int.from_bytes(sizes[8:], "little"), found[2]) if len(sizes) == 16 else None
        return found
    return None


def _found(file: BinaryIO, start: int, name: bytes, chunk: _Chunk) -> tuple[int, int, _Chunk] | None:
    for kind, begin, size in _chunks(file, start, chunk):
        if kind == name:
            return begin, size, chunk
    return None


def _chunks(file: BinaryIO, at: int, chunk: _Chunk) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the content and size of the chunks from here on."""
    for _ in range(10_000):
        file.seek(at)
        head = file.read(chunk.size)
        if len(head) < chunk.size:
            return
        kind, size = chunk.unpack(head)
        yield kind, at + chunk.size, size
        at += chunk.size + size + (size & 1 if chunk.size == 8 else 0)


def _is_more(file: BinaryIO, at: int, file_end: int, chunk: _Chunk | None) -> bool:
    """Whether the bytes after the stated audio are neither chunks, nor tags, nor zeros, nor fewer than _SLACK."""
    if file_end - at <= _SLACK and not _names_audio(file, at, chunk):
        return False
    file.seek(at)
    if file.read(9).lstrip(b"\0").startswith(_TAGS):
        return False
    if chunk and any(_are_chunks(file, start, file_end, chunk) for start in dict.fromkeys((at + (at & 1), at))):
        return False
    file.seek(at)
    return any(block.strip(b"\0") for block in iter(lambda: file.read(_READ_BLOCK), b""))


def _names_audio(file: BinaryIO, at: int, chunk: _Chunk | None) -> bool:
    file.seek(at)
    return chunk is not None and file.read(5).lstrip(b"\0").startswith(_WHOLE_FILES)


def _are_chunks(file: BinaryIO, at: int, file_end: int, chunk: _Chunk) -> bool:
    """Whether a chunk other than audio begins here; chunks of audio after it are more audio."""
    number = 0
    for number, (kind, begin, size) in enumerate(_chunks(file, at, chunk), 1):
        is_chunk = all(32 <= byte < 127 for byte in kind) and begin + size <= file_end
        if kind in _WHOLE_FILES:
            return False
        if not is_chunk:
            return number > 1
    return number > 0


def _check_flac(file: BinaryIO) -> None:
    """The number of the last frame is compared with the samples in STREAMINFO; 0 there means unknown."""
    file.seek(8)
    info = file.read(18)
    if len(info) < 18 or not (stated := int.from_bytes(info[10:18], "big") & (1 << 36) - 1):
        return
    rate_hz, most = int.from_bytes(info[10:13], "big") >> 4, int.from_bytes(info[2:4], "big")
    file_end = file.seek(0, os.SEEK_END)
    file.seek(max(0, file_end - _FLAC_TAIL))
    first = _last_frame(file.read(), most)
    if first is not None and first >= stated + most and rate_hz:
        there = f"its frames continue until {first / rate_hz:.2f} s at least"
        raise MediaError(f"its header states {stated / rate_hz:.2f} s of audio, but {there}; encode the file again")


def _last_frame(tail: bytes, block: int) -> int | None:
    """The first sample of the last frame in `tail`, found by a frame header with a correct checksum."""
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        head = tail[at : at + _FLAC_FRAME_HEAD]
        if len(head) < _FLAC_FRAME_HEAD or head[1] & 0xFE != 0xF8:
            continue
        size = _utf8_size(head[4])
        end = 4 + size + {6: 1, 7: 2}.get(head[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
        if not size or end >= len(head) or _crc8(head[:end]) != head[end]:
            continue
        number = _utf8_number(head[4 : 4 + size])
        return number if head[1] & 1 else number * block  # of samples, or of blocks of one size
    return None


def _utf8_size(first: int) -> int:
    """Bytes of a number in UTF-8's coding, which FLAC uses up to 7 bytes; 0 when `first` begins none."""
    leading = 8 - (first ^ 0xFF).bit_length()
    return 1 if leading == 0 else 0 if leading in (1, 8) else leading


def _utf8_number(content: bytes) -> int:
    number = content[0] & (0x7F if len(content) == 1 else 0xFF >> len(content) + 1)
    for byte in content[1:]:
        number = number << 6 | byte & 0x3F
    return number


def _crc8(content: bytes) -> int:
    """Polynomial x^8 + x^2 + x + 1 (RFC 9639, section 9.1.8)."""
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07) & 0xFF if crc & 0x80 else crc << 1
    return crc
