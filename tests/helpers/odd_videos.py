"""Videos as cameras and the web make them: rotated, of variable rate, in webm, with several kinds of audio."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np


def write_timed_video(
    path: Path,
    times_s: list[float],
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    sound: tuple[str, int, str] | None = None,
    sound_start_s: float = 0.0,
) -> Path:
    """Frame k is shown from times_s[k] on: left half grey level 20 + 8 k, right half blue.

    audio   (codec, rate in Hz, layout): a tone over the length of the clip
    """
    import av

    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=10, options={"g": "1000"})
        track.width, track.height, track.pix_fmt = *size, "yuv420p"
        track.codec_context.time_base = Fraction(1, 1000)
        heard = container.add_stream(sound[0], rate=sound[1], layout=sound[2]) if sound else None
        for number, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(half_and_half(20 + 8 * number, size), format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(track.encode(frame))
        container.mux(track.encode())
        if heard is not None and sound is not None:
            _mux_tone(container, heard, sound, sound_start_s, times_s[-1] + 0.1)
    return path


def half_and_half(grey: int, size: tuple[int, int]) -> np.ndarray:
    """uint8[H, W, 3]"""
    pixels = np.full((size[1], size[0], 3), grey, np.uint8)
    pixels[:, size[0] // 2 :] = (20, 40, 200)
    return pixels


def rotated_copy(path: Path, source: Path, quarters: int) -> Path:
    """The same video with a display matrix in its header that asks players to rotate it clockwise by quarters."""
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version, flags and times before the matrix
    cos, sin = (1, 0, -1, 0)[quarters % 4], (0, 1, 0, -1)[quarters % 4]
    values = (cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    content[at : at + 36] = b"".join((value & 0xFFFFFFFF).to_bytes(4, "big") for value in values)
    path.write_bytes(bytes(content))
    return path


def _mux_tone(container, heard, sound: tuple[str, int, str], start_s: float, stop_s: float) -> None:
    import av

    _, rate_hz, layout = sound
    wave = 0.4 * np.sin(2 * np.pi * 440 * np.arange(round((stop_s - start_s) * rate_hz)) / rate_hz)
    channels = len(av.AudioLayout(layout).channels)
    frame = av.AudioFrame.from_ndarray(np.tile(wave.astype(np.float32), (channels, 1)), "fltp", layout)
    frame.sample_rate, frame.pts, frame.time_base = rate_hz, round(start_s * rate_hz), Fraction(1, rate_hz)
    resampler = av.AudioResampler(heard.codec_context.format, layout, rate_hz)
    for part in resampler.resample(frame):
        container.mux(heard.encode(part))
    container.mux(heard.encode())
