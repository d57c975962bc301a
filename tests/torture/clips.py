"""Odd videos. Frames show the four corners of pictures.py unless the file says otherwise."""

from __future__ import annotations

import struct
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.files import Odd, changed
from tests.torture.pictures import corners, encoded
from tests.torture.sounds import tone


def _clip(
    path: Path,
    codec: str = "libx264",
    num_frames: int = 12,
    pixels: np.ndarray | None = None,
    pix_fmt: str = "yuv420p",
    times: tuple[int, ...] | None = None,
    sound: bool = False,
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
        voice = target.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 100)
            target.mux(track.encode(frame))
        target.mux(track.encode())
        if voice is not None:
            _speak(av, target, voice)


def _speak(av: Any, target: Any, voice: Any) -> None:
    frame = av.AudioFrame.from_ndarray(tone(1.2).T.astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 16000, 0
    target.mux(voice.encode(frame))
    target.mux(voice.encode())


def _sound_alone(path: Path) -> None:
    import av

    with av.open(str(path), "w") as target:
        _speak(av, target, target.add_stream("aac", rate=16000, layout="mono"))


def _turned(path: Path, quarter_turns: int) -> None:
    """A phone held upright: the track's matrix in the MP4 header says how far the picture has to be turned."""
    _clip(path, pixels=np.ascontiguousarray(np.rot90(corners(96, 96), quarter_turns)))
    cos, sin = {1: (0, 1), 2: (-1, 0), 3: (0, -1)}[quarter_turns]
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd")
    matrix = header + 4 + 40  # version 0: behind version, times, id, duration, layer, volume
    one = 1 << 16
    content[matrix : matrix + 36] = struct.pack(">9i", cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def _cut(path: Path, share: float, **options: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    _clip(path, pixels=noise, num_frames=30, **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _damaged(path: Path) -> None:
    _clip(path, num_frames=30, movflags="faststart")
    path.write_bytes(changed(path.read_bytes(), 0.6, b"\x00" * 300))


def _bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _frames(path: Path, pictures: dict[str, bytes]) -> None:
    path.mkdir()
    for name, content in pictures.items():
        (path / name).write_bytes(content)


_JPEG = encoded("JPEG", quality=95)
_FRAMES = {f"img_{number}.jpg": _JPEG for number in range(1, 13)}  # img_2 stands before img_10
_UNEVEN = (0, 1, 2, 3, 50, 51, 52, 200, 201, 400, 401, 402)

CLIPS = (
    Odd("plain.mp4", _clip, marks="corners"),
    Odd("with_sound.mp4", partial(_clip, sound=True), marks="corners"),
    Odd("b_frames.mp4", partial(_clip, num_frames=40, bf="4", g="250"), marks="corners"),
    Odd(
        "open_gop.mp4",
        partial(_clip, num_frames=40, **{"x264-params": "open-gop=1:keyint=8:bframes=3"}),
        marks="corners",
    ),
    Odd("index_first.mp4", partial(_clip, movflags="faststart"), marks="corners"),
    Odd("fragmented.mp4", partial(_clip, movflags="frag_keyframe+empty_moov"), marks="corners"),
    Odd("uneven_times.mp4", partial(_clip, times=_UNEVEN), marks="corners"),
    Odd("late_start.mkv", partial(_clip, times=tuple(range(500, 620, 10))), marks="corners"),
    Odd("one_frame.mp4", partial(_clip, num_frames=1), marks="corners"),
    Odd("two_frames.mp4", partial(_clip, num_frames=2), marks="corners"),
    Odd("colour_444.mp4", partial(_clip, pix_fmt="yuv444p"), marks="corners"),
    Odd("ten_bit.mp4", partial(_clip, pix_fmt="yuv420p10le"), marks="corners"),
    Odd("odd_sides.mp4", partial(_clip, pix_fmt="yuv444p", pixels=corners(51, 77)), marks="corners"),
    Odd("sixteen_pixels.mp4", partial(_clip, pixels=corners(16, 16)), marks="corners"),
    Odd("hevc.mp4", partial(_clip, codec="libx265", **{"x265-params": "log-level=none"}), marks="corners"),
    Odd("plain.webm", partial(_clip, codec="libvpx"), marks="corners"),
    Odd("plain.mkv", _clip, marks="corners"),
    Odd("plain.avi", partial(_clip, codec="mpeg4"), marks="corners"),
    Odd("plain.mov", _clip, marks="corners"),
    Odd("plain.gif", partial(_clip, codec="gif", pix_fmt="rgb8"), marks="corners"),
    Odd("turned_90.mp4", partial(_turned, quarter_turns=1), marks="corners"),
    Odd("turned_180.mp4", partial(_turned, quarter_turns=2), marks="corners"),
    Odd("turned_270.mp4", partial(_turned, quarter_turns=3), marks="corners"),
    Odd("matroska_inside.mp4", partial(_clip, container="matroska"), marks="corners"),
    Odd("frames", partial(_frames, pictures=_FRAMES), marks="corners"),
    Odd("one_frame_folder", partial(_frames, pictures={"only.png": encoded("PNG")}), marks="corners"),
    Odd(
        "frames_and_notes",
        partial(_frames, pictures={**_FRAMES, "notes.txt": b"x", "Thumbs.db": b"y"}),
        marks="corners",
    ),
    Odd("frames_one_broken", partial(_frames, pictures={"1.jpg": _JPEG[:300]}), reads=False, says="1.jpg"),
    Odd("no_frames", partial(_frames, pictures={}), reads=False, says="no frames"),
    Odd("sound_alone.mp4", _sound_alone, reads=False, says="no video"),
    Odd("index_missing.mp4", partial(_cut, share=0.5), reads=False, says="not a readable video"),
    Odd("cut.mp4", partial(_cut, share=0.5, movflags="faststart"), reads=False, says="breaks off"),
    Odd("cut.webm", partial(_cut, share=0.5, codec="libvpx"), reads=None),
    Odd("cut_in_header.mp4", partial(_cut, share=0.001), reads=False, says="not a readable video"),
    Odd("damaged.mp4", _damaged, reads=None),
    Odd("empty.mp4", partial(_bytes, content=b""), reads=False, says="empty"),
    Odd("zeros.mp4", partial(_bytes, content=bytes(5000)), reads=False, says="not a readable video"),
    Odd(
        "page.mp4",
        partial(_bytes, content=b"<html>Video unavailable</html>" * 9),
        reads=False,
        says="not a readable video",
    ),
)
