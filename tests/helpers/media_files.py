"""Small media files for tests, made when needed: an image of bands, a video that brightens, a tone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np


def bands(height: int = 40, width: int = 60) -> np.ndarray:
    """uint8[H, W, 3]: red grows to the right, green downwards, blue is a checkerboard."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x // 8 + y // 8) % 2 * 255], -1).astype(np.uint8)


def image_bytes(kind: str = "PNG", pixels: np.ndarray | None = None, mode: str = "RGB", **options: object) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(bands() if pixels is None else pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def write_video(
    path: Path, num_frames: int = 16, size: int = 64, tone_hz: float | None = None, index_last: bool = True
) -> Path:
    """H.264, frame i has grey level 15 * i; with `tone_hz` a second of AAC beside it."""
    import av

    options = {} if index_last else {"movflags": "faststart"}
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream("libx264", rate=8, options={"crf": "5"})
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono") if tone_hz else None
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 15 * index, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound is not None:
            container.mux(sound.encode(_sound_frame(av, tone_hz or 0)))
            container.mux(sound.encode())
    return path


def _sound_frame(av, tone_hz: float):
    frame = av.AudioFrame.from_ndarray(tone(1.0, tone_hz)[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate = 16000
    frame.pts = 0
    return frame


def tone(seconds: float, hz: float = 440.0, rate_hz: int = 16000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def write_audio(path: Path, samples: np.ndarray, rate_hz: int = 16000, **options: object) -> Path:
    import soundfile

    soundfile.write(str(path), samples, rate_hz, **options)
    return path


def chirp(seconds: float, rate_hz: int) -> np.ndarray:
    """Every second is 10 Hz higher than the one before, from 100 Hz on: the pitch of a slice shows its position."""
    step = 100 + 10 * np.floor(np.arange(round(seconds * rate_hz)) / rate_hz)
    return 0.5 * np.sin(2 * np.pi * np.cumsum(step) / rate_hz)


def second_of(wave: Any, rate_hz: int = 16000) -> float:
    """Where a slice of less than a second of `chirp` comes from, in seconds."""
    import torch

    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave)), 1 << 17).abs()
    return (float(spectrum.argmax()) * rate_hz / (1 << 17) - 100) / 10
