"""Odd videos. Frames show the four corners of images.py unless noted otherwise."""

from __future__ import annotations

import struct
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.audio import tone
from tests.torture.images import corners, encoded
from tests.torture.odd_file import OddFile, changed


def _video(
    path: Path,
    codec: str = "libx264",
    num_frames: int = 12,
    pixels: np.ndarray | None = None,
    pix_fmt: str = "yuv420p",
    times: tuple[int, ...] | None = None,
    audio: bool = False,
    container: str | None = None,
    movflags: str = "",
    **options: str,
) -> None:
    """times: when each frame is shown, in 1/100 s; default: ten a second"""
    import av

    shown = corners(96, 128) if pixels is None else pixels
    with av.open(str(path), "w", format=container, options={"movflags": movflags} if movflags else {}) as target:
        track: Any = target.add_stream(codec, rate=10, options={"crf": "12", **options} if "264" in codec else options)
        track.height, track.width = shown.shape[:2]
        track.pix_fmt = pix_fmt
        if codec in ("mpeg4", "libvpx"):
            track.bit_rate = 2_000_000
        if times is not None:
            track.codec_context.time_base = track.time_base = Fraction(1, 100)
        audio_track = target.add_stream("aac", rate=16000, layout="mono") if audio else None
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 100)
            target.mux(track.encode(frame))
        target.mux(track.encode())
        if audio_track is not None:
            _mux_tone(av, target, audio_track)


def _mux_tone(av: Any, target: Any, audio_track: Any) -> None:
    frame = av.AudioFrame.from_ndarray(tone(1.2).T.astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 16000, 0
    target.mux(audio_track.encode(frame))
    target.mux(audio_track.encode())


def _audio_alone(path: Path) -> None:
    import av

    with av.open(str(path), "w") as target:
        _mux_tone(av, target, target.add_stream("aac", rate=16000, layout="mono"))


def _turned(path: Path, quarter_turns: int) -> None:
    """A phone held upright: the track's matrix in the MP4 header asks for a rotation."""
    _video(path, pixels=np.ascontiguousarray(np.rot90(corners(96, 96), quarter_turns)))
    cos, sin = {1: (0, 1), 2: (-1, 0), 3: (0, -1)}[quarter_turns]
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd")
    matrix = header + 4 + 40  # version 0: after version, times, id, duration, layer, volume
    one = 1 << 16
    content[matrix : matrix + 36] = struct.pack(">9i", cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def _cut(path: Path, share: float, **options: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    _video(path, pixels=noise, num_frames=30, **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _damaged(path: Path) -> None:
    _video(path, num_frames=30, movflags="faststart")
    path.write_bytes(changed(path.read_bytes(), 0.6, b"\x00" * 300))


def _bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _frames(path: Path, images: dict[str, bytes]) -> None:
    path.mkdir()
    for name, content in images.items():
        (path / name).write_bytes(content)


_JPEG = encoded("JPEG", quality=95)
_FRAMES = {f"img_{number}.jpg": _JPEG for number in range(1, 13)}  # img_2 precedes img_10
_UNEVEN = (0, 1, 2, 3, 50, 51, 52, 200, 201, 400, 401, 402)

VIDEOS = (
    OddFile("plain.mp4", _video, marks="corners"),
    OddFile("with_audio.mp4", partial(_video, audio=True), marks="corners"),
    OddFile("b_frames.mp4", partial(_video, num_frames=40, bf="4", g="250"), marks="corners"),
    OddFile(
        "open_gop.mp4",
        partial(_video, num_frames=40, **{"x264-params": "open-gop=1:keyint=8:bframes=3"}),
        marks="corners",
    ),
    OddFile("index_first.mp4", partial(_video, movflags="faststart"), marks="corners"),
    OddFile("fragmented.mp4", partial(_video, movflags="frag_keyframe+empty_moov"), marks="corners"),
    OddFile("uneven_times.mp4", partial(_video, times=_UNEVEN), marks="corners"),
    OddFile("late_start.mkv", partial(_video, times=tuple(range(500, 620, 10))), marks="corners"),
    OddFile("one_frame.mp4", partial(_video, num_frames=1), marks="corners"),
    OddFile("two_frames.mp4", partial(_video, num_frames=2), marks="corners"),
    OddFile("colour_444.mp4", partial(_video, pix_fmt="yuv444p"), marks="corners"),
    OddFile("ten_bit.mp4", partial(_video, pix_fmt="yuv420p10le"), marks="corners"),
    OddFile("odd_sides.mp4", partial(_video, pix_fmt="yuv444p", pixels=corners(51, 77)), marks="corners"),
    OddFile("sixteen_pixels.mp4", partial(_video, pixels=corners(16, 16)), marks="corners"),
    OddFile("hevc.mp4", partial(_video, codec="libx265", **{"x265-params": "log-level=none"}), marks="corners"),
    OddFile("plain.webm", partial(_video, codec="libvpx"), marks="corners"),
    OddFile("plain.mkv", _video, marks="corners"),
    OddFile("plain.avi", partial(_video, codec="mpeg4"), marks="corners"),
    OddFile("plain.mov", _video, marks="corners"),
    OddFile("plain.gif", partial(_video, codec="gif", pix_fmt="rgb8"), marks="corners"),
    OddFile("turned_90.mp4", partial(_turned, quarter_turns=1), marks="corners"),
    OddFile("turned_180.mp4", partial(_turned, quarter_turns=2), marks="corners"),
    OddFile("turned_270.mp4", partial(_turned, quarter_turns=3), marks="corners"),
    OddFile("matroska_inside.mp4", partial(_video, container="matroska"), marks="corners"),
    OddFile("frames", partial(_frames, images=_FRAMES), marks="corners"),
    OddFile("one_frame_folder", partial(_frames, images={"only.png": encoded("PNG")}), marks="corners"),
    OddFile(
        "frames_and_notes",
        partial(_frames, images={**_FRAMES, "notes.txt": b"x", "Thumbs.db": b"y"}),
        marks="corners",
    ),
    OddFile("frames_one_broken", partial(_frames, images={"1.jpg": _JPEG[:300]}), reads=False, message="1.jpg"),
    OddFile("no_frames", partial(_frames, images={}), reads=False, message="no frames"),
    OddFile("audio_alone.mp4", _audio_alone, reads=False, message="no video"),
    OddFile("index_missing.mp4", partial(_cut, share=0.5), reads=False, message="not a readable video"),
    OddFile("cut.mp4", partial(_cut, share=0.5, movflags="faststart"), reads=False, message="breaks off"),
    OddFile("cut.webm", partial(_cut, share=0.5, codec="libvpx"), reads=None),
    OddFile("cut_in_header.mp4", partial(_cut, share=0.001), reads=False, message="not a readable video"),
    OddFile("damaged.mp4", _damaged, reads=None),
    OddFile("empty.mp4", partial(_bytes, content=b""), reads=False, message="empty"),
    OddFile("zeros.mp4", partial(_bytes, content=bytes(5000)), reads=False, message="not a readable video"),
    OddFile(
        "page.mp4",
        partial(_bytes, content=b"<html>Video unavailable</html>" * 9),
        reads=False,
        message="not a readable video",
    ),
)
