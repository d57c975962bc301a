"""Small videos of every awkward kind: a moving image, so that neighbouring frames differ, in many containers."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

KINDS: dict[str, dict[str, Any]] = {  # file name -> how it is written
    "closed.mp4": {"options": {"g": "12"}},
    "one_group.mkv": {"options": {"g": "250"}},
    "open.mp4": {"params": "open-gop=1:keyint=12:min-keyint=6:scenecut=0"},
    "refresh.mp4": {"params": "intra-refresh=1:keyint=12:bframes=2"},
    "variable_rate.mp4": {"options": {"g": "12"}, "is_variable": True},
    "fragments.mp4": {"options": {"g": "12"}, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "stream.ts": {"options": {"g": "12"}},
    "h264.avi": {"options": {"g": "12"}},
    "h264.asf": {"options": {"g": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12"}},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "8"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12", "cpu-used": "8", "deadline": "realtime"}},
    "hevc.mkv": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=12:open-gop=1:bframes=3"}},
    "mjpeg.avi": {"codec": "mjpeg"},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "12"}},
}


def moving(num_frames: int, width: int, height: int) -> list[np.ndarray]:
    """uint8[H, W, 3] each: a window that moves over coarse noise."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    ground = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    places = [(3 * i % (ground.shape[0] - height), 5 * i % (ground.shape[1] - width)) for i in range(num_frames)]
    return [np.ascontiguousarray(ground[y : y + height, x : x + width]) for y, x in places]


def write_moving(
    path: Path,
    num_frames: int = 40,
    width: int = 64,
    height: int = 48,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    params: str = "",
    container: dict[str, str] | None = None,
    is_variable: bool = False,
    rotation: int = 0,
) -> Path:
    """params: x264's own settings. is_variable: frames last 10 to 200 ms. rotation: degrees counterclockwise."""
    import av

    options = {**(options or {}), **({"x264-params": params} if params else {})}
    if codec in ("libx264", "libx265"):
        options.setdefault("preset", "veryfast")
    times = np.cumsum(np.random.default_rng(1).integers(10, 200, num_frames)).tolist()  # ms
    with av.open(str(path), "w", options=container or {}) as file:
        stream: Any = file.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        if is_variable:
            stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, time in zip(moving(num_frames, width, height), times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if is_variable:
                frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def cut_by_edit_list(source: Path, path: Path, num_frames: int) -> Path:
    """The same packets of an mp4, the first `num_frames` frames hidden by an edit list."""
    import av

    hides = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(str(source)) as old, av.open(str(path), "w", options=hides) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        shift = round(num_frames / stream.average_rate / stream.time_base)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                new.mux(packet)
    return path


def decoded_from_start(path: Path) -> list[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
