"""Images as a Hugging Face folder describes them: `preprocessor_config.json` -> an ImageProcessor."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from chatbridge.common.file_kind import read_json_object
from chatbridge.processors.image import CLIP_MEAN, CLIP_STD, ImageProcessor, PixelStatistics
from chatbridge.processors.image_file import WHITE, Color

FILE = "preprocessor_config.json"
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers


class FolderImageProcessor(ImageProcessor):
    """A square image as the file describes it, the same in training and evaluation.

    pads        the whole image is scaled into the square, centered on the background; edge is not used
    edge        shorter side in pixels before the center crop; None = stretched to the square
    resample    name of Pillow's filter
    nearest     where the crop begins when the margins differ by a pixel: at the nearest whole number, as timm's (half
                to even), or rounded down, as transformers'
    scale       factor of pixels 0..255 before mean and std
    lean        see ImageProcessor; uint8 output is exact here, since Pillow resizes bytes either way
    """

    def __init__(
        self,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        edge: int | None = None,
        resample: str = "bicubic",
        scale: float = 1 / 255,
        lean: bool = False,
        nearest: bool = False,
        pads: bool = False,
        background: Color | None = WHITE,
    ):
        super().__init__(size, mean, std, lean=lean, background=background)
        self.pads = pads
        self.edge = edge
        self.nearest = nearest
        self.resample = resample
        self.statistics = PixelStatistics(tuple(mean), tuple(std), scale)

    def square(self, pixels: np.ndarray) -> np.ndarray:
        """uint8[H, W, 3] -> uint8[size, size, 3]"""
        from PIL import Image

        height, width = pixels.shape[:2]
        if self.pads:
            return self._padded(pixels)
        wanted = (self.size, self.size)
        if self.edge is not None:
            short = min(height, width)
            wanted = (int(self.edge * width / short), int(self.edge * height / short))
        image = Image.fromarray(pixels)
        if image.size != wanted:
            image = image.resize(wanted, Image.Resampling[self.resample.upper()])
        if self.edge is None:
            return np.asarray(image)
        margins = image.width - self.size, image.height - self.size
        left, top = (round(margin / 2) if self.nearest else margin // 2 for margin in margins)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))  # black outside the image

    def _padded(self, pixels: np.ndarray) -> np.ndarray:
        """uint8[H, W, 3] -> uint8[size, size, 3] with all of the image in it"""
        from PIL import Image

        height, width = pixels.shape[:2]
        scale = self.size / max(height, width)
        wanted = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = Image.fromarray(pixels).resize(wanted, Image.Resampling[self.resample.upper()])
        ground = Image.new("RGB", (self.size, self.size), self.background or (0, 0, 0))
        ground.paste(image, ((self.size - wanted[0]) // 2, (self.size - wanted[1]) // 2))
        return np.asarray(ground)


def cropped(
    image: FolderImageProcessor, crop: Literal["center", "pad", "stretch"] | None, background: Color | None
) -> FolderImageProcessor:
    """A copy with this background and this way to make an image square; None keeps the way."""
    image = copy.copy(image)
    image.background = background
    if crop is not None:
        image.pads = crop == "pad"
        image.edge = (image.edge or image.size) if crop == "center" else None
    return image


def read_settings(folder: Path | None) -> dict[str, Any]:
    """The file's content; empty when there is no folder or no such file.

    raises   ValueError when it cannot be read
    """
    if folder is None or not (folder / FILE).is_file():
        return {}
    try:
        return read_json_object(folder / FILE)
    except OSError as error:
        raise ValueError(f"{folder / FILE}: cannot be read ({error})") from None


def side_of(settings: Mapping[str, Any]) -> int | None:
    """Side in pixels of the images that this preprocessing makes; None where the settings have none."""
    crop = settings.get("crop_size") if settings.get("do_center_crop") else None
    return _side(crop) or _side(settings.get("size"))


def image_processor(
    settings: Mapping[str, Any],
    size: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    lean: bool = False,
) -> FolderImageProcessor:
    """The processor that `settings` (of read_settings) describe; `size`, `mean` and `std` take precedence.

    A center crop keeps the proportion of the two sizes in `settings` when `size` differs from theirs.
    """
    normalised = settings.get("do_normalize", True)
    side = side_of(settings) or size
    edge = None
    if settings.get("do_center_crop"):
        edge = round((_side(settings.get("size")) or side) * size / side)
    elif isinstance(settings.get("size"), Mapping) and "shortest_edge" in settings["size"]:
        edge = size  # without a crop the images of a batch would differ in shape
    return FolderImageProcessor(
        size=size,
        mean=mean or (settings.get("image_mean", CLIP_MEAN) if normalised else (0.0, 0.0, 0.0)),
        std=std or (settings.get("image_std", CLIP_STD) if normalised else (1.0, 1.0, 1.0)),
        edge=edge,
        resample=_RESAMPLING.get(settings.get("resample", 3), "bicubic"),
        scale=settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0,
        lean=lean,
    )


def _side(size: Any) -> int | None:
    """224, {"height": 224, "width": 224} and {"shortest_edge": 224} -> 224"""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height") or size.get("longest_edge")
    return size if isinstance(size, int) else None
