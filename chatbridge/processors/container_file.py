"""The only module that opens files with PyAV: containers that hold their own data, never files that name others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from chatbridge.common.errors import MediaError
from chatbridge.processors.media_source import NotAccepted, id3_size, looks_like, opened

# FFmpeg's demuxers that read one file alone. Left out on purpose: playlists and manifests (hls, dash,
# concat, imf, webm_dash_manifest), numbered images (image2), network descriptions (sdp, rtp, rtsp), subtitles and
# devices (lavfi).
_VIDEOS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,rm,mxf,gxf,dv,nut,ivf,nsv,nuv,wtv,pva,swf,smk,bink,roq"
_BARE_VIDEO = "h264,hevc,av1,obu,m4v,mjpeg,vc1,vvc,yuv4mpegpipe"
_AUDIO = "wav,w64,aiff,au,caf,flac,mp3,aac,loas,amr,amrnb,amrwb,ac3,eac3,dts,dtshd,truehd,mlp,wv,tta,ape,mpc,mpc8,tak"
_MORE_AUDIO = "gsm,voc,xwma,spdif,iff,dsf,qcp,sox,ircam,paf,nistsphere,shn,oma,aa,ast,qoa"
ACCEPTED = f"{_VIDEOS},{_BARE_VIDEO},{_AUDIO},{_MORE_AUDIO}"
WORDS = "mp4, mov, mkv, webm, avi, ts, mpg, ogg, flv, wmv, mxf; wav, flac, mp3, aac, m4a, opus, aiff, wma and others"
_DEPTH = {b"moov", b"trak", b"mdia", b"minf", b"dinf"}  # boxes of MP4 and QuickTime on the way to data references
_ANY = {
    b"ftyp",
    b"free",
    b"skip",
    b"wide",
    b"mdat",
    b"pnot",
    b"uuid",
    b"styp",
    b"sidx",
    b"moof",
    b"mfra",
    b"meta",
    b"udta",
}
_SELF_CONTAINED = 1  # flag of a data reference: the data are in this file
_MOST_BOXES = 10_000
_STARTS = (  # first bytes of accepted formats
    b"\x1aE\xdf\xa3", b"OggS", b"FLV\x01", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\0\0\1", b"\0\0\0\1",
    b"RIFF", b"RF64", b"fLaC", b".RMF", b"DKIF", b"YUV4MPEG2", b"nut/multimedia container", b"\x06\x0e\x2b\x34",
)  # fmt: skip

_MP3_STARTS = tuple(bytes([0xFF, byte]) for byte in range(0xE0, 0x100))  # frame sync


def open_container(ref: str | Path | bytes) -> Any:
    """PyAV's container of a file, or of one in memory. Nothing but this one file is read.

    raises   MediaError for a format that is not accepted and for data in other files; FFmpeg's errors for broken files
    """
    import av
    from av.error import ArgumentError

    check_contained(ref)
    options = {"format_whitelist": ACCEPTED, "protocol_whitelist": "file" if not isinstance(ref, bytes) else "none"}
    try:
        # an absolute path: "concat:a|b" and "subfile,,..:" stay names of files
        return av.open(opened(ref) if isinstance(ref, bytes) else os.path.abspath(ref), options=options)
    except ArgumentError as error:  # FFmpeg's answer for a format that is not on the list
        raise NotAccepted(_refused(ref)) from error


def decodable(stream: Any) -> Any:
    """The same stream of PyAV. raises MediaError when FFmpeg has no decoder for it, as when its header is damaged"""
    if stream.codec_context is None:
        raise MediaError(f"its {stream.type} track has an unknown codec, or a damaged header; convert it with ffmpeg")
    return stream


def local_source(ref: str | Path | bytes) -> str | bytes:
    """What decord and torchcodec open: an absolute path, or the content where FFmpeg would find a protocol, a pattern
    or a number to fill in within the path."""
    if isinstance(ref, bytes):
        return ref
    return Path(ref).read_bytes() if any(sign in str(ref) for sign in "%*?[{:,|") else os.path.abspath(ref)


def _refused(ref: str | Path | bytes) -> str:
    what = looks_like(ref)
    return f"it looks like {what}; accepted: {WORDS}" if what else f"it is not one of the accepted formats: {WORDS}"


def check_contained(ref: str | Path | bytes) -> None:
    """raises NotAccepted for MP4 and QuickTime files whose tracks are in other files"""
    with _stream(ref) as file:
        for kind, start, stop in _boxes(file):
            if kind == b"rmra":
                raise NotAccepted("a QuickTime reference movie, which names other files")
            if kind == b"dref":
                _check_references(_piece(file, start, stop))


def check_content(ref: str | Path | bytes) -> None:
    """For decord and torchcodec, which take no list of formats: the first bytes must be those of an accepted one.

    raises   NotAccepted
    """
    check_contained(ref)
    with _stream(ref) as file:
        head = file.read(1024)
        at = 0
        while tag := id3_size(head):  # FFmpeg looks for the format after the tags
            at += tag
            file.seek(at)
            head = file.read(1024)
    if at and head.startswith(_MP3_STARTS):
        return
    is_ts = any(len(head) > at + 376 and head[at] == head[at + step] == 0x47 for at in (0, 4) for step in (188, 192))
    if not (is_ts or head[4:8] in _DEPTH | _ANY or head.startswith(_STARTS)):
        raise NotAccepted(_refused(ref))


def _check_references(content: bytes) -> None:
    """Entries of a dref box: size, type, version, flags, then where the data are."""
    at = 8
    for _ in range(int.from_bytes(content[4:8], "big")):
        entry = content[at : at + 12]
        size = int.from_bytes(entry[:4], "big")
        if len(entry) < 12 or size < 12:
            return
        if not int.from_bytes(entry[9:12], "big") & _SELF_CONTAINED:
            raise NotAccepted("its data are in another file, which is not opened; save it self-contained")
        at += size


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of the boxes of an MP4 or QuickTime file; none for other files."""
    end = file.seek(0, os.SEEK_END)
    open_, number = [(0, end)], 0
    while open_ and number < _MOST_BOXES:
        number += 1
        at, stop = open_.pop()
        head = _piece(file, at, min(at + 16, stop))
        if len(head) < 8:
            continue
        size, kind, begin = int.from_bytes(head[:4], "big"), head[4:8], at + 8
        if stop == end and number == 1 and kind not in _DEPTH | _ANY:
            return
        if size == 1:
            size, begin = int.from_bytes(head[8:16], "big"), at + 16
        size = stop - at if size == 0 else size
        if size < begin - at:
            continue
        open_.append((at + size, stop))
        yield kind, begin, min(at + size, stop)
        if kind in _DEPTH:
            open_.append((begin, min(at + size, stop)))


def _piece(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(max(0, stop - start))


def _stream(ref: str | Path | bytes) -> BinaryIO:
    content = opened(ref)
    return open(content, "rb") if isinstance(content, str) else content
