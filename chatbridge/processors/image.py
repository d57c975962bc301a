"""Images: files, bytes or tensors -> float[3, size, size] normalised, or in training uint8[3, size, size]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.processors.fast_jpeg import read_jpeg
from chatbridge.processors.image_file import WHITE, Color, read_image
from chatbridge.processors.media_processor import MediaProcessor, ready_item
from chatbridge.processors.media_source import Ref, SideBySide, name_of

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PixelStatistics:
    """How the weights of an encoder were trained: pixels times `scale`, minus `mean`, divided by `std`, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8[..., 3, H, W] -> float32[..., 3, H, W] on the device of the pixels"""
        return self.of_unit(pixels.float() / 255)

    def of_unit(self, x: Tensor) -> Tensor:
        """float[..., 3, H, W] in 0..1 -> normalised"""
        mean, std = _channels(self.mean, x.device), _channels(self.std, x.device)
        return (x * (255 * self.scale) - mean) / std

    def bytes_of(self, x: Tensor) -> Tensor:
        """The inverse, rounded: normalised float[..., 3, H, W] -> uint8[..., 3, H, W]

        raises   MediaError for values outside 0..255
        """
        pixels = ((x.float() * _channels(self.std, x.device) + _channels(self.mean, x.device)) / self.scale).round()
        if not ((pixels >= 0) & (pixels <= 255)).all():
            raise MediaError(
                f"{name_of(x)} holds values outside the range of pixels; set data.media.pixels: float to train on it"
            )
        return pixels.to(torch.uint8)


_known_channels: dict[tuple[tuple[float, ...], torch.device], Tensor] = {}


def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """float32[3, 1, 1], made once per device: a copy in every step would wait for the device."""
    if (values, device) in _known_channels:
        return _known_channels[values, device]
    made = torch.tensor(values, device=device).view(3, 1, 1)
    if type(made) is Tensor:  # a fake one, of a plan, must not come up in a training of the same process
        _known_channels[values, device] = made
    return made


class ImageProcessor(MediaProcessor):
    """A square image in the statistics of the encoder's weights; the aspect ratio is not kept.

    size        side in pixels
    mean, std   per channel, of pixels in 0..1
    train       how to resize: training converts pixels to a tensor and resizes that, bilinear; evaluation resizes the
                image with Pillow, bicubic, always antialiased. ChatBridge was trained and evaluated this way.
    antialias   of the training resize. The released ChatBridge weights were trained without (torchvision 0.13.1); newer
                torchvision and this default antialias, which is closer to the evaluation images.
    background  what transparent pixels show; None drops transparency as the reference does, so hidden colors show
    lean        the output is uint8 instead of float, as long as `limits.pixels` is "uint8"; `statistics` normalises it
                later, on the device of the model. Encoders ask for it in training.

    Difference between lean and float images: the bilinear resize rounds to whole grey levels twice, so a pixel is off
    by one level at most (measured: 0.3 on average, normalised 0.015 at most with CLIP's std). The bicubic resize ends
    in bytes either way, and so does an image that has the size already: these are equal bit for bit.

    Source: joez17/ChatBridge, VideoMapper and evaluation processor; golden chatbridge_image_preprocess.
    """

    reads_pairs = True

    def __init__(
        self,
        size: int = 224,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        train: bool = False,
        antialias: bool = True,
        lean: bool = False,
        background: Color | None = WHITE,
    ):
        self.size = size
        self.background = background
        self.train = train
        self.antialias = antialias
        self.lean = lean
        self.statistics = PixelStatistics(tuple(mean), tuple(std))

    @property
    def makes_bytes(self) -> bool:
        return self.lean and self.limits.pixels == "uint8"

    def __call__(self, ref: Ref | SideBySide, rng: np.random.Generator | None = None) -> Tensor:
        """float[3, size, size], or uint8 of lean ones. A tensor is raw pixels uint8[3, H, W] or ready float; two files
        side by side are read one by one, then squeezed to the width of one.

        raises   MediaError when the image cannot be read or exceeds the limits
        """
        if isinstance(ref, SideBySide):
            return squeezed(self(ref.left, rng), self(ref.right, rng))
        if isinstance(ref, Tensor):
            return self._from_tensor(ref)
        x = self._fast(ref)
        if x is not None and self.train:
            return self._bilinear(x).contiguous()
        return self.from_pixels(self._slow(ref) if x is None else _channels_last(x))

    def pixels(self, ref: str | Path | bytes) -> np.ndarray:
        """uint8[H, W, 3] of a file. Lean images are decoded by torchvision where that gives what Pillow gives."""
        x = self._fast(ref)
        return self._slow(ref) if x is None else _channels_last(x)

    def _fast(self, ref: str | Path | bytes) -> Tensor | None:
        """uint8[3, H, W]; None for what is left to Pillow"""
        self.check_file(ref)
        return read_jpeg(ref, self.limits.max_pixels) if self.makes_bytes else None

    def _slow(self, ref: str | Path | bytes) -> np.ndarray:
        return read_image(ref, self.limits.max_pixels, self.background)

    def from_pixels(self, pixels: np.ndarray) -> Tensor:
        """uint8[H, W, 3] -> float[3, size, size], or uint8 of lean ones"""
        if self.makes_bytes:
            return self._resized_bytes(pixels) if self.train else _channels_first(self.square(pixels))
        x = self._resized_tensor(pixels) if self.train else _channels_first(self.square(pixels)).float() / 255
        return self.statistics.of_unit(x)

    def square(self, pixels: np.ndarray) -> np.ndarray:
        """uint8[H, W, 3] -> uint8[size, size, 3] as Pillow resizes"""
        from PIL import Image

        if pixels.shape[:2] == (self.size, self.size):
            return pixels
        return np.asarray(Image.fromarray(pixels).resize((self.size, self.size), Image.Resampling.BICUBIC))

    def _resized_tensor(self, pixels: np.ndarray) -> Tensor:
        return self._bilinear(_channels_first(pixels).float() / 255)

    def _resized_bytes(self, pixels: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)  # strided: torch's fast path
        return self._bilinear(x).contiguous()

    def _bilinear(self, x: Tensor) -> Tensor:
        """[3, H, W] -> [3, size, size] of the same type"""
        size = (self.size, self.size)
        if x.shape[1:] == size:
            return x
        return torch.nn.functional.interpolate(x[None], size, mode="bilinear", antialias=self.antialias)[0]

    def _from_tensor(self, ref: Tensor) -> Tensor:
        if ref.dtype == torch.uint8 and ref.ndim == 3 and ref.shape[0] == 3:
            return self.from_pixels(ref.permute(1, 2, 0).numpy())
        if ref.is_floating_point() and tuple(ref.shape) == (3, self.size, self.size):
            return self.from_ready(ready_item(ref))
        wanted = f"pixels uint8[3, H, W] or a ready float[3, {self.size}, {self.size}]"
        raise MediaError(f"{name_of(ref)} of {ref.dtype}: an image is {wanted}")

    def from_ready(self, x: Tensor) -> Tensor:
        """Normalised float[..., 3, size, size] in the dtype of a batch: float, or rounded to uint8."""
        return self.statistics.bytes_of(x) if self.makes_bytes else x.float()


def squeezed(left: Tensor, right: Tensor) -> Tensor:
    """Two images [..., H, W] side by side in the width of one: every other column, as the nearest neighbor gives them.

    Source: open-mmlab/Multimodal-GPT, the pairs of NLVR2.
    """
    return torch.cat((left, right), dim=-1)[..., ::2].contiguous()


def _channels_last(x: Tensor) -> np.ndarray:
    """uint8[3, H, W] -> uint8[H, W, 3], the same memory where it has this layout already"""
    return x.permute(1, 2, 0).contiguous().numpy()


def _channels_first(pixels: np.ndarray) -> Tensor:
    """uint8[H, W, 3] -> uint8[3, H, W], a copy"""
    return torch.from_numpy(np.array(pixels, copy=True)).permute(2, 0, 1).contiguous()
