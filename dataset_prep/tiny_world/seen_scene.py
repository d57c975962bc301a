"""The scene that an image shows, from its pixels alone: the judge of images that a model drew.

Shape, size and place are those of the outline that covers the bright pixels best, among outlines of all of them at
several offsets and radii; the color is the nearest to the mean of the pixels inside. No caption is read.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from dataset_prep.tiny_world import render_visual, world
from dataset_prep.tiny_world.render_visual import CENTERS, IMAGE_PX, RGB
from dataset_prep.tiny_world.world import Scene

LEAST_CONTRAST = 80  # in the brightest channel, between background and shape; those of scenes differ by 100 and more
LEAST_OVERLAP = 0.6  # intersection over union of the best outline, below which no shape is seen
FARTHEST_COLOR = 90.0  # distance to the nearest color in RGB, above which none is seen
OFFSETS_PX = (-1.5, 0.0, 1.5)
RADII = {"big": (0.217, 0.233), "small": (0.131, 0.144)}  # shares of the side


def seen_scene(image: Tensor | np.ndarray | Image.Image) -> Scene | None:
    """The scene of an image, or None where no shape of the tiny world can be made out.

    image   uint8[3, H, W] as generators draw it, uint8[H, W, 3] or an image; scaled to IMAGE_PX
    """
    pixels = _pixels(image)
    level = pixels.max(axis=-1)  # a shape covers less than half of an image, so the median is the background
    background, peak = float(np.median(level)), float(np.percentile(level, 99))
    if peak - background < LEAST_CONTRAST:
        return None
    bright = level > (background + peak) / 2
    kinds, outlines = _outlines()
    shared = outlines @ bright.ravel().astype(np.float32)
    overlap = shared / (outlines.sum(axis=1) + bright.sum() - shared)
    best = int(overlap.argmax())
    color = _color(pixels[bright].mean(axis=0))
    if overlap[best] < LEAST_OVERLAP or color is None:
        return None
    shape, size, place = kinds[best]
    return Scene("image", (size, color, shape, place))


def _pixels(image: Tensor | np.ndarray | Image.Image) -> np.ndarray:
    """float32[IMAGE_PX, IMAGE_PX, 3]"""
    if isinstance(image, Tensor):
        image = image.permute(1, 2, 0).cpu().numpy()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return np.asarray(picture.convert("RGB").resize((IMAGE_PX, IMAGE_PX)), dtype=np.float32)


def _color(mean: np.ndarray) -> str | None:
    distances = {name: float(np.linalg.norm(mean - np.array(rgb))) for name, rgb in RGB.items()}
    nearest = min(distances, key=distances.__getitem__)
    return nearest if distances[nearest] <= FARTHEST_COLOR else None


@cache
def _outlines() -> tuple[list[tuple[str, str, str]], np.ndarray]:
    """Shape, size and place of every outline, and float32[outlines, pixels] with 1 inside."""
    kinds, masks = [], []
    for shape, size, place in product(world.SHAPES, world.SIZES, world.PLACES):
        x, y = (IMAGE_PX / 2 + step * 0.27 * IMAGE_PX for step in CENTERS[place])
        for dx, dy, radius in product(OFFSETS_PX, OFFSETS_PX, RADII[size]):
            kinds.append((shape, size, place))
            masks.append(_mask(shape, x + dx, y + dy, radius * IMAGE_PX))
    return kinds, np.stack(masks)


def _mask(shape: str, x: float, y: float, radius: float) -> np.ndarray:
    canvas = Image.new("RGB", (2 * IMAGE_PX, 2 * IMAGE_PX))
    render_visual.draw_shape(ImageDraw.Draw(canvas), render_visual.Drawn(shape, (255, 255, 255), x, y, radius), 2)
    small = canvas.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BOX)
    return (np.asarray(small)[..., 0] > 127).ravel().astype(np.float32)
