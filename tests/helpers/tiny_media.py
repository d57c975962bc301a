"""Media and sources small enough for tests, made when needed: images, videos, audio, tars, annotation files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.conversation.layout import Layout
from chatbridge.conversation.templates import build_template
from tests.parity.toy_tokenizers import CrcTokenizer

MEDIA_LENGTHS = {"image": 2, "video": 3, "audio": 4}


def jpeg(red: int = 200, side: int = 8) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (side, side), (red, 40, 90)).save(stream, "JPEG")
    return stream.getvalue()


def wav(pitch_hz: float = 440.0, seconds: float = 0.2, rate_hz: int = 16000) -> bytes:
    import soundfile

    stream = io.BytesIO()
    times = np.arange(int(seconds * rate_hz)) / rate_hz
    soundfile.write(stream, 0.3 * np.sin(2 * np.pi * pitch_hz * times), rate_hz, format="WAV")
    return stream.getvalue()


def mp4(num_frames: int = 6, side: int = 32) -> bytes:
    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("libx264", rate=4)
        track.width = track.height = side
        track.pix_fmt = "yuv420p"
        for number in range(num_frames):
            pixels = np.full((side, side, 3), 40 * number % 256, dtype=np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(track.encode())
    return stream.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes | str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def pairs(count: int, first: int = 0) -> list[tuple[str, bytes | str]]:
    """Images with captions that name them."""
    members: list[tuple[str, bytes | str]] = []
    for number in range(first, first + count):
        members += [(f"{number:05}.jpg", jpeg(number % 250)), (f"{number:05}.txt", f"Picture number {number}")]
    return members


def write_json(path: Path, records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    else:
        path.write_text(json.dumps(records), encoding="utf-8")
    return path


def layout(template: str = "caption", max_tokens: int | None = None) -> Layout:
    return Layout(build_template(template), CrcTokenizer(), MEDIA_LENGTHS, max_tokens)
