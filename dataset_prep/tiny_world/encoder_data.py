"""Training data of the tiny encoders: rendered images and audio with a label per attribute.

Only scenes that are not held out are rendered for training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.seeds import stream
from dataset_prep.tiny_world import render_audio, render_visual, world
from dataset_prep.tiny_world.world import Scene

NO_LABEL = -100  # ignored by the loss
VOLUME_RANGES = {"loud": (0.3, 0.95), "quiet": (0.01, 0.05)}  # wider than the levels of scenes
Labels = dict[str, list[int]]  # attribute -> index of the value, NO_LABEL where it does not apply
Batches = Callable[[int], tuple[Tensor, Labels]]  # number of items -> media float[M, ...] and their labels


def labels_of(scene: Scene, modality: str) -> dict[str, int]:
    """Label per attribute of `modality`; a video frame has no place and no size."""
    named = scene.named
    return {k: values.index(named[k]) if k in named else NO_LABEL for k, values in world.ATTRIBUTES[modality].items()}


def image_batches(processor: Callable[..., Tensor], seed: int, *, held_out: bool) -> Batches:
    """Batches of images, a third of them video frames, rendered anew each time: float[M, 3, H, W] and labels."""
    rng = stream(seed, "pictures for the vision encoder", held_out)
    images, videos = (world.all_scenes(modality, held_out=held_out) for modality in ("image", "video"))

    def draw(count: int) -> tuple[Tensor, Labels]:
        media, labels = [], []
        for index in range(count):
            is_frame = index % 3 == 2
            scene = (videos if is_frame else images)[int(rng.integers(len(videos if is_frame else images)))]
            media.append(processor(_jpeg_frame(scene, rng) if is_frame else render_visual.jpeg(scene, rng)))
            labels.append(labels_of(scene, "image"))
        return torch.stack(media), _by_attribute(labels)

    return draw


def _jpeg_frame(scene: Scene, rng: np.random.Generator) -> bytes:
    number = int(rng.integers(render_visual.VIDEO_FRAMES))
    return render_visual.jpeg_bytes(render_visual.video_frame(scene, number, rng))


def audio_batches(processor: Callable[..., Tensor], count: int, seed: int, *, held_out: bool) -> Batches:
    """Batches from `count` rendered waveforms: float[M, frames, mel] and labels.

    The training data have any pitch and loudness. Values between the named ones have no label, so that the encoder
    also represents audio that no caption describes.
    """
    rng = stream(seed, "sounds for the audio encoder", held_out)
    scenes = world.all_scenes("audio", held_out=held_out)
    if held_out:
        rendered = ((render_audio.waveform(scene, rng), labels_of(scene, "audio")) for scene in cycle(scenes))
    else:
        rendered = any_audio(rng)
    features, known = zip(
        *((processor(torch.from_numpy(samples))[0], each) for samples, each in islice(rendered, count))
    )
    media = torch.stack(features)

    def draw(size: int) -> tuple[Tensor, Labels]:
        chosen = rng.integers(count, size=size)
        return media[torch.from_numpy(chosen)], _by_attribute([known[index] for index in chosen])

    return draw


def any_audio(rng: np.random.Generator) -> Iterator[tuple[np.ndarray, dict[str, int]]]:
    """Waveforms and their labels, NO_LABEL for a pitch or a loudness without a name.

    Pitch and loudness never both have a name, so no waveform is a scene. Leaving out the held-out scenes alone would
    bias the encoder: for example, every low hissing siren would be quiet.
    """
    while True:
        kind, background = world.pick(world.SOUNDS, rng), world.pick(world.BACKGROUNDS, rng)
        base_hz, level = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in ((200, 2300), (0.01, 0.95)))
        pitch = _name(base_hz, render_audio.BASE_HZ)
        if pitch and _name(level, render_audio.LEVELS):
            continue
        volume = None if pitch else _name(level, VOLUME_RANGES)
        labels = {"sound": world.SOUNDS.index(kind), "pitch": NO_LABEL, "volume": NO_LABEL}
        labels |= {"background": world.BACKGROUNDS.index(background)}
        labels |= {"pitch": world.PITCHES.index(pitch)} if pitch else {}
        labels |= {"volume": world.VOLUMES.index(volume)} if volume else {}
        yield render_audio.waveform_of(kind, base_hz, level, background, rng), labels


def _name(value: float, ranges: dict[str, tuple[float, float]]) -> str | None:
    return next((name for name, (low, high) in ranges.items() if low <= value <= high), None)


def _by_attribute(labels: list[dict[str, int]]) -> Labels:
    return {name: [label[name] for label in labels] for name in labels[0]}
