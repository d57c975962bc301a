"""Media of a sample as PNGs: the encoder input, with frame numbers or the position of each clip in the audio."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatbridge.cli.data.sample import ReadMedia
from chatbridge.cli.data.series_png import series_png
from chatbridge.common.errors import MediaError
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.imagebind_audio import ImageBindAudioProcessor

SMALLEST = 160  # pixels of a side; smaller images are enlarged by whole factors, so that pixels are visible
WIDEST = 4000  # largest width after enlarging, for example of a plugin's time series
GAP, LABEL = 10, 24  # pixels
COLORS = (1, 3)  # numbers of channels that can be displayed
MOST_POINTS = 1400  # columns of a waveform
QUIET, ACCENT, SHADE, GROUND = "#667384", "#0d8f86", "#eef1f5", "#ffffff"


def media_png(item: ReadMedia) -> bytes | None:
    """Return a PNG of an item; None if it could not be read, or is not made of pixels or audio."""
    if item.tensor is None:
        return None
    if item.modality == "audio":
        return audio_png(item)
    if names := getattr(item.processor, "channel_names", ()):
        return series_png(item.tensor.numpy(), names)
    item = replace(item, tensor=item.processor.images(item.tensor)) if hasattr(item.processor, "images") else item
    assert item.tensor is not None
    if item.tensor.ndim not in (2, 3, 4) or (item.tensor.ndim > 2 and item.tensor.shape[-3] not in COLORS):
        return None  # a modality of a plugin whose tensors are not pixels
    frames = pixels(item)
    return contact_sheet(frames, _labels(item, len(frames)))


def _labels(item: ReadMedia, count: int) -> list[str]:
    """Return the labels of the pieces; "" for an image."""
    piece = MODALITIES.get(item.modality).piece
    if item.chosen is None:
        return [""] if count == 1 else [f"{piece} {number}" for number in range(count)]
    length, numbers = item.chosen
    return [f"{piece} {number} of {length}" for number in numbers]


def pixels(item: ReadMedia) -> np.ndarray:
    """Return the encoder input as uint8[T, H, W, 3]; it is [H, W], [C, H, W] or [T, C, H, W] with 1 or 3 channels."""
    x = item.tensor
    assert x is not None
    x = x.reshape(-1, x.shape[-3] if x.ndim > 2 else 1, *x.shape[-2:])  # [T, C, H, W]
    if x.dtype != torch.uint8:
        statistics = getattr(getattr(item.processor, "image", item.processor), "statistics", None)
        x = _bytes(x.float(), statistics)
    return x.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def _bytes(x: Tensor, statistics: Any) -> Tensor:
    """Convert normalised float[T, 3, H, W] to uint8; without statistics the value range is stretched."""
    if statistics is None:
        unit = (x - x.min()) / (x.max() - x.min()).clamp(min=1e-6)
    else:
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (statistics.mean, statistics.std))
        unit = (x * std + mean) / (255 * statistics.scale)
    return (unit.clamp(0, 1) * 255).round().to(torch.uint8)


def contact_sheet(frames: np.ndarray, labels: Sequence[str]) -> bytes:
    """Return a PNG of frames side by side, with a label below each.

    frames   uint8[T, H, W, 3]
    """
    from PIL import Image, ImageDraw, ImageFont

    factor = max(1, min(-(-SMALLEST // frames.shape[1]), WIDEST // frames.shape[2]))
    height, width = frames.shape[1] * factor, frames.shape[2] * factor
    columns = min(len(frames), 8)
    rows = -(-len(frames) // columns)
    below = LABEL if any(labels) else 0
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + below + GAP) - GAP), GROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, (frame, label) in enumerate(zip(frames, labels)):
        left, top = number % columns * (width + GAP), number // columns * (height + below + GAP)
        sheet.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (left, top))
        if label:
            draw.text((left + width / 2, top + height + 5), label, fill=QUIET, font=font, anchor="ma")
    return _png(sheet)


def _png(image: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def audio_png(item: ReadMedia) -> bytes:
    """Return a PNG of the waveform with the chosen clips shaded, above the encoder input of each clip."""
    from matplotlib.figure import Figure

    clips = _features(item)
    wave, seconds = _wave(item)
    figure = Figure(figsize=(8.4, 3.3), dpi=110, facecolor=GROUND, layout="constrained")
    grid = figure.add_gridspec(2, len(clips), height_ratios=(1, 1.5))
    above = figure.add_subplot(grid[0, :])
    if wave is not None:
        _draw_wave(above, wave, seconds, _chosen_seconds(item, seconds))
    else:
        above.text(0.5, 0.5, "the waveform cannot be drawn", ha="center", color=QUIET)
    _use_quiet_style(above)
    values = np.concatenate([clip[~np.isnan(clip)] for clip in clips])
    low, high = np.percentile(values, (1, 99.9)) if values.size else (0.0, 1.0)
    for number, clip in enumerate(clips):
        below = figure.add_subplot(grid[1, number])
        below.imshow(clip, aspect="auto", origin="lower", cmap="magma", vmin=low, vmax=high, interpolation="nearest")
        _name_padding(below, clip)
        below.set_xlabel(_clip_label(item, number), color=QUIET, fontsize=8)
        below.set_ylabel("mel band" if number == 0 else "", color=QUIET, fontsize=8)
        _use_quiet_style(below)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _features(item: ReadMedia) -> list[np.ndarray]:
    """Return float[bands, frames] per clip."""
    assert item.tensor is not None
    x = item.tensor.float()
    x = x[:, 0] if isinstance(item.processor, ImageBindAudioProcessor) else x  # [clips, 1, mel, frames]
    x = x if x.ndim == 3 else x.reshape(1, x.shape[-2] if x.ndim > 1 else 1, x.shape[-1])
    is_time_first = isinstance(item.processor, AudioProcessor)
    return [_without_padding((clip.T if is_time_first else clip).numpy()) for clip in x]


def _without_padding(clip: np.ndarray) -> np.ndarray:
    """Replace the constant padding after the end of the audio by NaN, which is not drawn."""
    is_flat = np.ptp(clip, axis=0) == 0
    filled = np.flatnonzero(~is_flat)
    end = filled[-1] + 1 if filled.size else 0
    return np.where(np.arange(clip.shape[1]) < end, clip, np.nan)


def _name_padding(axes: Any, clip: np.ndarray) -> None:
    empty = np.isnan(clip[0])
    axes.set_facecolor(SHADE)
    if empty.mean() > 0.12:
        middle = (np.flatnonzero(empty)[0] + clip.shape[1]) / 2
        axes.text(middle, clip.shape[0] / 2, "padding", ha="center", va="center", color=QUIET, fontsize=8)


def _clip_label(item: ReadMedia, number: int) -> str:
    is_known = isinstance(item.processor, (AudioProcessor, ImageBindAudioProcessor))
    unit = "frames of 10 ms" if is_known else "time"
    if item.chosen is None or max(item.chosen[0], len(item.chosen[1])) < 2:
        return unit
    return f"clip {item.chosen[1][number]} of {item.chosen[0]}: {unit}"


def _wave(item: ReadMedia) -> tuple[np.ndarray | None, float]:
    """Return (float[samples], seconds) of the whole audio; None if the processor cannot read it."""
    try:
        wave = item.processor.waveform(item.ref).numpy()
    except (AttributeError, MediaError, ValueError, OSError):
        return None, 0.0
    return wave, len(wave) / item.processor.rate_hz


def _chosen_seconds(item: ReadMedia, seconds: float) -> list[tuple[float, float]]:
    """Return start and end of the chosen clips, in seconds."""
    if isinstance(item.processor, ImageBindAudioProcessor):
        return [(start, min(stop, seconds)) for start, stop in item.processor.clip_seconds(seconds)]
    frames = getattr(item.processor, "target_frames", None)
    if frames is None or item.chosen is None:
        return []
    return [(0.01 * frames * at, min(0.01 * frames * (at + 1), seconds)) for at in sorted(set(item.chosen[1]))]


def _draw_wave(axes: Any, wave: np.ndarray, seconds: float, chosen: Sequence[tuple[float, float]]) -> None:
    """Draw the lowest and highest value per column, the resolution of a screen."""
    columns = min(MOST_POINTS, len(wave))
    edges = np.linspace(0, len(wave), columns + 1).astype(int)[:-1]
    times = np.linspace(0, seconds, columns)
    low, high = np.minimum.reduceat(wave, edges), np.maximum.reduceat(wave, edges)
    for start, stop in chosen:
        axes.axvspan(start, stop, color=ACCENT, alpha=0.14, linewidth=0)
    axes.fill_between(times, low, high, color=ACCENT, linewidth=0.8)
    axes.axhline(0, color=QUIET, linewidth=0.4)
    loudest = max(0.02, float(np.abs(wave).max()))
    axes.set_xlim(0, seconds)
    axes.set_ylim(-1.1 * loudest, 1.1 * loudest)
    axes.set_title(f"{seconds:.2f} s; shaded: the clips that are read", color=QUIET, fontsize=8, loc="left")


def _use_quiet_style(axes: Any) -> None:
    axes.tick_params(colors=QUIET, labelsize=7, length=2)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#c9d0d9")


SIGNATURES = (  # (bytes, offset, file extension)
    (b"\xff\xd8", 0, ".jpg"), (b"\x89PNG", 0, ".png"), (b"WEBP", 8, ".webp"), (b"WAVE", 8, ".wav"),
    (b"AVI ", 8, ".avi"), (b"fLaC", 0, ".flac"), (b"OggS", 0, ".ogg"), (b"ID3", 0, ".mp3"),
    (b"ftyp", 4, ".mp4"), (b"\x1aE\xdf\xa3", 0, ".webm"),
)  # fmt: skip


def original_file(item: ReadMedia, folder: Path, name: str) -> Path | None:
    """Return the media file, to be played by a page; bytes from a tar are written to the folder. None if unknown."""
    if isinstance(item.ref, (str, Path)):
        path = Path(item.ref)
        return path if path.is_file() else None
    if not isinstance(item.ref, bytes):
        return None
    ending = next((end for mark, at, end in SIGNATURES if item.ref[at : at + len(mark)] == mark), None)
    if ending is None:
        return None
    path = folder / f"{name}{ending}"
    path.write_bytes(item.ref)
    return path
