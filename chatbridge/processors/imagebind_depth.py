"""Depth maps as ImageBind reads them: disparity, normalised, float[1, size, size]."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.common.errors import MediaError
from chatbridge.processors.array_file import is_array_file, read_array
from chatbridge.processors.image_file import open_image
from chatbridge.processors.media_processor import MediaProcessor, ready_item
from chatbridge.processors.media_source import Ref, name_of, reasons

DepthValues = Literal["distance", "sunrgbd", "disparity"]
NEAREST_M, FARTHEST_M = 0.01, 50.0
LARGEST_DISPARITY = 75.0  # pixels
MOST_16_BIT = 0xFFFF
MEAN, STD = 0.0418, 0.0295  # of disparities as parts of the largest one
ACCEPTED = "a 16-bit PNG or TIFF in millimetres, or a .npy or float TIFF in metres"


class ImageBindDepthProcessor(MediaProcessor):
    """Disparity of the short side resized to `size` and cropped at the center, the same in training and evaluation.

    size        side in pixels
    values      what files hold: "distance" (16-bit images in millimetres, .npy and float TIFF in metres), "sunrgbd" (as
                distance, but 16-bit images have their bits rotated by three, as SUN RGB-D stores them), or "disparity"
                (.npy, in pixels)
    focal_px    of the camera, in pixels of the map
    baseline_m  of the sensor: 0.075 for Kinect 1 and 2, 0.095 for RealSense and Xtion. Both turn distances into
                disparities: baseline * focal / distance

    Distances are cut to 0.01..50 m, disparities at 75; then x / 75, minus 0.0418, divided by 0.0295. A distance of 0 is
    unknown and becomes a disparity of 0, infinitely far (the authors' function would call it nearest; their maps had no
    holes). ImageBind published no code for depth maps; these are the steps of the same authors for the same data.
    Source: facebookresearch/omnivore, issue 12 and its transforms; facebookresearch/ImageBind, issue 134.
    """

    def __init__(
        self, size: int = 224, values: DepthValues = "distance", focal_px: float = 518.86, baseline_m: float = 0.075
    ):
        self.size = size
        self.values: DepthValues = values
        self.focal_px = focal_px
        self.baseline_m = baseline_m

    @property
    def item_shape(self) -> tuple[int, ...]:
        return 1, self.size, self.size

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Tensor:
        """float[1, size, size]. A tensor is distances in metres (or disparities) float[H, W], or ready.

        raises   MediaError for a file that holds no map of one value per pixel
        """
        with reasons(ref, "depth map"):
            if isinstance(ref, Tensor):
                return self._from_tensor(ref)
            self.check_file(ref)
            return self.from_map(torch.from_numpy(self._read(ref)))

    def from_map(self, x: Tensor) -> Tensor:
        """float[H, W] in metres, or disparities -> normalised float[1, size, size]

        raises   MediaError for another number of axes, and for values below 0
        """
        if x.ndim != 2 or not x.numel():
            raise MediaError(f"it has shape {list(x.shape)}, expected one value per pixel [H, W]")
        if not bool((x >= 0).all()):
            raise MediaError(f"its values go down to {float(x.min()):g}; distances are 0 (unknown) or more")
        known = x[x > 0]
        if self.values != "disparity" and known.numel() and float(known.min()) > FARTHEST_M:
            raise MediaError(
                f"its distances begin at {float(known.min()):g} m, and all beyond {FARTHEST_M:g} m are one value; if "
                "they are millimetres, divide them by 1000"
            )
        unit = self.disparity(x.float()).clamp(max=LARGEST_DISPARITY) / LARGEST_DISPARITY
        return (center_square(unit, self.size)[None] - MEAN) / STD

    def disparity(self, x: Tensor) -> Tensor:
        """float[H, W] in metres -> float[H, W] in pixels"""
        if self.values == "disparity":
            return x
        return torch.where(x > 0, self.baseline_m * self.focal_px / x.clamp(NEAREST_M, FARTHEST_M), 0.0)

    def _read(self, ref: str | Path | bytes) -> np.ndarray:
        """float32[H, W]"""
        if is_array_file(ref):
            found = read_array(ref, self.limits.max_pixels)
            found = found[..., 0] if found.ndim == 3 and found.shape[-1] == 1 else found
            if found.dtype.kind != "f" and self.values != "disparity":
                raise MediaError(f"it holds {found.dtype}; expected metres as floats; divide millimetres by 1000")
            return found.astype(np.float32)
        with open_image(ref, self.limits.max_pixels) as image:
            if not (image.mode.startswith("I") or image.mode == "F"):
                raise MediaError(f"it is an image of mode {image.mode}, not a map of distances; accepted: {ACCEPTED}")
            if image.mode.startswith("I") and self.values == "disparity":
                raise MediaError("it holds whole numbers; disparities are read from .npy and float TIFF files")
            found = np.asarray(image)
        if found.dtype.kind == "f":
            if not np.isfinite(found).all():
                raise MediaError("it holds values that are not numbers (nan, inf)")
            return found.astype(np.float32)
        if self.values == "sunrgbd" and found.size and not 0 <= int(found.min()) <= int(found.max()) <= MOST_16_BIT:
            raise MediaError(f"its values go from {found.min()} to {found.max()}; SUN RGB-D's have 16 bits")
        levels = found.astype(np.uint16) if self.values == "sunrgbd" else found
        levels = (levels >> 3) | (levels << 13) if self.values == "sunrgbd" else levels
        return levels.astype(np.float32) / 1000

    def _from_tensor(self, ref: Tensor) -> Tensor:
        if ref.is_floating_point() and tuple(ref.shape) == self.item_shape:
            return ready_item(ref)
        if ref.is_floating_point() and ref.ndim == 2:
            return self.from_map(ref)
        wanted = f"distances in metres float[H, W] or a ready float{list(self.item_shape)}"
        raise MediaError(f"{name_of(ref)} of {ref.dtype}: a depth map is {wanted}")


def center_square(x: Tensor, size: int) -> Tensor:
    """float[H, W] -> float[size, size]: the short side resized (bilinear, antialiased), the long one cut."""
    height, width = x.shape
    short = min(height, width)
    shape = (height * size // short, width * size // short)
    x = F.interpolate(x[None, None], shape, mode="bilinear", antialias=True)[0, 0]
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return x[top : top + size, left : left + size]
