"""Thermal images as ImageBind reads them: one channel of brightness in 0..1, float[1, size, size]."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.processors.array_file import is_array_file, read_array
from chatbridge.processors.image import PixelStatistics
from chatbridge.processors.image_file import pillow, read_image
from chatbridge.processors.imagebind_image import ImageRule, imagebind_image
from chatbridge.processors.media_processor import MediaProcessor, ready_item
from chatbridge.processors.media_source import Ref, name_of, reasons

ACCEPTED = "brightness uint8[H, W] or float[H, W] in 0..1"


class ImageBindThermalProcessor(MediaProcessor):
    """The brightness of an infrared image, resized and cropped as images are, the same in training and evaluation.

    size        side in pixels
    rule        of the crop, as for images
    mean, std   of brightness in 0..1. The released trunk is used without either: those of CLIP make its accuracy on
                LLVIP worse by seven points, by a report on the pull request

    Colors are turned into brightness; 16-bit images are scaled by their type. ImageBind published no code for thermal
    images. Source: facebookresearch/ImageBind, pull request 73.
    """

    def __init__(self, size: int = 224, rule: ImageRule = "imagebind", mean: float = 0.0, std: float = 1.0):
        self.square = imagebind_image(size, rule)
        self.size = size
        self.statistics = PixelStatistics((mean,), (std,))

    @property
    def item_shape(self) -> tuple[int, ...]:
        return 1, self.size, self.size

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Tensor:
        """float[1, size, size]. A tensor is brightness uint8[H, W] or float[H, W] in 0..1, or ready.

        raises   MediaError when it cannot be read, or holds other values
        """
        with reasons(ref, "thermal image"):
            if isinstance(ref, Tensor):
                return self._from_tensor(ref)
            self.check_file(ref)
            if is_array_file(ref):
                return self.from_brightness(_grey(read_array(ref, self.limits.max_pixels)))
            pixels = read_image(ref, self.limits.max_pixels)
            return self.from_brightness(np.asarray(pillow().fromarray(pixels).convert("L")))

    def from_brightness(self, grey: np.ndarray) -> Tensor:
        """uint8[H, W] -> float[1, size, size]"""
        square = self.square.square(np.repeat(grey[..., None], 3, axis=2))[..., 0]
        x = torch.from_numpy(np.array(square)).float() / 255
        return ((x - self.statistics.mean[0]) / self.statistics.std[0])[None]

    def _from_tensor(self, ref: Tensor) -> Tensor:
        if ref.is_floating_point() and tuple(ref.shape) == self.item_shape:
            return ready_item(ref)
        if ref.ndim == 2:
            return self.from_brightness(_grey(ref.numpy()))
        raise MediaError(
            f"{name_of(ref)} of {ref.dtype}: a thermal image is {ACCEPTED}, or a ready float{list(self.item_shape)}"
        )


def _grey(values: np.ndarray) -> np.ndarray:
    """uint8[H, W] of brightness. raises MediaError for other values, such as temperatures"""
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 2 or not values.size:
        raise MediaError(f"it has shape {list(values.shape)}, expected one value per pixel [H, W]")
    if values.dtype == np.uint8:
        return values
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind != "f" or not (low >= 0 and high <= 1):
        raise MediaError(f"its values go from {low:g} to {high:g}; expected {ACCEPTED}; scale temperatures first")
    return (values * 255).round().astype(np.uint8)
