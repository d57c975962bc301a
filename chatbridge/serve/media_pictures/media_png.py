"""Media as PNGs: the encoder input, with frame numbers or the position of each clip in the audio."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatbridge.conversation.modalities import MODALITIES
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.imagebind_audio import ImageBindAudioProcessor
from chatbridge.processors.media_source import Ref
from chatbridge.serve.media_pictures.media_preview import Wave, wave_of
from chatbridge.serve.media_pictures.series_png import series_png

SMALLEST = 160  # pixels of a side; smaller images are enlarged by whole factors, so that pixels are visible
WIDEST = 4000  # largest width after enlarging, for example of a plugin's time series
GAP, LABEL = 10, 24  # pixels
COLORS = (1, 3)  # numbers of channels that can be displayed
QUIET, ACCENT, SHADE, GROUND = "#667384", "#0d8f86", "#eef1f5", "#ffffff"


@dataclass(frozen=True)
class ReadMedia:
    """One media item as it was read.

    tensor   input of its encoder; None if it could not be read
    chosen   (number of frames or clips, the chosen ones); None for images
    wave     of audio; None: it is read from `ref` where it is drawn
    """

    modality: str
    ref: Ref
    processor: Any
    tensor: Tensor | None = None
    chosen: tuple[int, list[int]] | None = None
    wave: Wave | None = None


def about(item: ReadMedia) -> str:
    """Describe an item: "frames 3, 9, 14, 20 of 24; uint8[4, 3, 224, 224]"."""
    if item.tensor is None:
        return "cannot be read"
    shape = f"{str(item.tensor.dtype).removeprefix('torch.')}{list(item.tensor.shape)}"
    if item.chosen is None or (item.modality == "audio" and item.chosen[0] < 2):
        return shape
    length, taken = item.chosen
    what = MODALITIES.get(item.modality).pieces
    return f"{what} {', '.join(map(str, taken))} of {length} (from 0); {shape}"


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
    wave = item.wave or wave_of(item.ref, item.processor, item.chosen)
    figure = Figure(figsize=(8.4, 3.3), dpi=110, facecolor=GROUND, layout="constrained")
    grid = figure.add_gridspec(2, len(clips), height_ratios=(1, 1.5))
    above = figure.add_subplot(grid[0, :])
    if wave is not None:
        _draw_wave(above, wave)
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


def _draw_wave(axes: Any, wave: Wave) -> None:
    """Draw the lowest and highest value per column."""
    times = np.linspace(0, wave.seconds, len(wave.low))
    for start, stop in wave.read:
        axes.axvspan(start, stop, color=ACCENT, alpha=0.14, linewidth=0)
    axes.fill_between(times, wave.low, wave.high, color=ACCENT, linewidth=0.8)
    axes.axhline(0, color=QUIET, linewidth=0.4)
    loudest = max(0.02, float(-wave.low.min()), float(wave.high.max()))
    axes.set_xlim(0, wave.seconds)
    axes.set_ylim(-1.1 * loudest, 1.1 * loudest)
    axes.set_title(f"{wave.seconds:.2f} s; shaded: the clips that are read", color=QUIET, fontsize=8, loc="left")


def _use_quiet_style(axes: Any) -> None:
    axes.tick_params(colors=QUIET, labelsize=7, length=2)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#c9d0d9")
