"""Pictures: any file Pillow reads -> float[3, size, size], normalised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.processors.source import Ref, check_source, name_of, opened, reasons

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageProcessor:
    """A square picture in the statistics of the encoder's weights; the aspect ratio is not kept.

    size        side in pixels
    mean, std   per channel, of pixels in 0..1
    train       how to resize: training turns pixels into a tensor first and resizes that, bilinear; evaluation resizes
                the picture with Pillow, bicubic, always antialiased. ChatBridge trains and evaluates so.
    antialias   of the training resize. The released ChatBridge weights saw none (torchvision 0.13.1); newer torchvision
                and this default smooth, which is closer to the evaluation pictures.

    Source: joez17/ChatBridge, VideoMapper and evaluation processor; golden chatbridge_image_preprocess.
    """

    def __init__(
        self,
        size: int = 224,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        train: bool = False,
        antialias: bool = True,
    ):
        self.size = size
        self.train = train
        self.antialias = antialias
        self._mean = torch.tensor(mean).view(3, 1, 1)
        self._std = torch.tensor(std).view(3, 1, 1)

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Tensor:
        """float[3, size, size]. A tensor is either raw pixels uint8[3, H, W] or ready float[3, size, size].

        raises   MediaError when the picture cannot be read
        """
        if isinstance(ref, Tensor):
            return self._from_tensor(ref)
        return self.from_pixels(read_image(ref))

    def from_pixels(self, pixels: np.ndarray) -> Tensor:
        """uint8[H, W, 3] -> float[3, size, size]"""
        x = self._resized_tensor(pixels) if self.train else self._resized_picture(pixels)
        return (x - self._mean) / self._std

    def _resized_tensor(self, pixels: np.ndarray) -> Tensor:
        x = _to_tensor(pixels)
        if x.shape[1:] == (self.size, self.size):
            return x
        size = (self.size, self.size)
        return torch.nn.functional.interpolate(x[None], size, mode="bilinear", antialias=self.antialias)[0]

    def _resized_picture(self, pixels: np.ndarray) -> Tensor:
        from PIL import Image

        if pixels.shape[:2] != (self.size, self.size):
            picture = Image.fromarray(pixels).resize((self.size, self.size), Image.Resampling.BICUBIC)
            pixels = np.asarray(picture)
        return _to_tensor(pixels)

    def _from_tensor(self, ref: Tensor) -> Tensor:
        if ref.dtype == torch.uint8 and ref.ndim == 3 and ref.shape[0] == 3:
            return self.from_pixels(ref.permute(1, 2, 0).numpy())
        if ref.is_floating_point() and tuple(ref.shape) == (3, self.size, self.size):
            return ref.float()
        wanted = f"pixels uint8[3, H, W] or a ready float[3, {self.size}, {self.size}]"
        raise MediaError(f"{name_of(ref)} of {ref.dtype}: an image is {wanted}")


def read_image(ref: str | Path | bytes) -> np.ndarray:
    """uint8[H, W, 3]: upright (EXIF), RGB whatever the file holds (palette, CMYK, grey, 16 bit, transparency dropped).

    raises   MediaError for a missing, truncated or foreign file
    """
    from PIL import Image

    check_source(ref)
    with reasons(ref, "image"), Image.open(opened(ref)) as picture:
        picture.load()
        return np.array(_rgb(_upright(picture)))


def _upright(picture: Any) -> Any:
    """Turned as its EXIF data says; EXIF data that nobody can read turns nothing."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # whatever is wrong with the notes, the pixels are fine
        return picture


def _rgb(picture: Any) -> Any:
    from PIL import Image

    if picture.mode.startswith("I"):  # 16 or 32 bit grey; convert("RGB") would clip everything above 255 to white
        grey = np.asarray(picture).astype(np.int64)
        scale = 257 if grey.max(initial=0) > 255 else 1
        picture = Image.fromarray((grey // scale).clip(0, 255).astype(np.uint8))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def _to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8[H, W, 3] -> float[3, H, W] in 0..1"""
    return torch.from_numpy(np.array(pixels, copy=True)).permute(2, 0, 1).contiguous().float() / 255
