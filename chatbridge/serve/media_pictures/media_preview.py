"""What a page shows of a media file beside the input of the encoder: the chosen frames or clips, and the waveform.

Decoding runs where uploads are read, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import MediaError
from chatbridge.processors.imagebind_audio import ImageBindAudioProcessor
from chatbridge.processors.media_source import Ref
from chatbridge.processors.piece_choice import watched

MOST_POINTS = 1400  # columns of a waveform, the resolution of a screen
FRAME_S = 0.01  # of the features of AudioProcessor


@dataclass(frozen=True, eq=False)
class Wave:
    """A waveform as the lowest and highest value of each column.

    low, high  float32[columns]
    read       (begin, end) of the clips that the encoder reads, in seconds
    """

    low: np.ndarray
    high: np.ndarray
    seconds: float
    read: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Preview:
    """chosen   (number of frames or clips, the chosen ones); None where nothing is chosen
    wave     None for other modalities, and for audio whose processor gives no waveform
    """

    chosen: tuple[int, list[int]] | None = None
    wave: Wave | None = None


def preview_of(ref: Ref, processor: Any) -> Preview:
    """Read a file as its encoder's input is read, and keep what there is to show. raises MediaError"""
    with watched() as choices:
        processor(ref, None)
    chosen = choices[-1] if choices else None
    return Preview(chosen, wave_of(ref, processor, chosen))


def wave_of(ref: Any, processor: Any, chosen: tuple[int, list[int]] | None) -> Wave | None:
    """The waveform of a file; None if the processor has none, or cannot read it."""
    if not isinstance(ref, (str, Path, bytes)):
        return None
    try:
        samples = processor.waveform(ref).numpy()
    except (AttributeError, MediaError, ValueError, OSError):
        return None
    if not len(samples):
        return None
    seconds = len(samples) / processor.rate_hz
    edges = np.linspace(0, len(samples), min(MOST_POINTS, len(samples)) + 1).astype(int)[:-1]
    low, high = np.minimum.reduceat(samples, edges), np.maximum.reduceat(samples, edges)
    return Wave(low, high, seconds, tuple(_read_seconds(processor, seconds, chosen)))


def _read_seconds(
    processor: Any, seconds: float, chosen: tuple[int, Sequence[int]] | None
) -> list[tuple[float, float]]:
    if isinstance(processor, ImageBindAudioProcessor):
        return [(start, min(stop, seconds)) for start, stop in processor.clip_seconds(seconds)]
    frames = getattr(processor, "target_frames", None)
    if frames is None or chosen is None:
        return []
    length_s = FRAME_S * frames
    return [(length_s * at, min(length_s * (at + 1), seconds)) for at in sorted(set(chosen[1]))]


__all__ = ["MOST_POINTS", "Preview", "Wave", "preview_of", "wave_of"]
