"""Video: files by PyAV, torchcodec or decord, or a folder of frames -> float[T, 3, size, size], in training uint8."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.common.file_names import is_hidden
from chatbridge.processors.animated_image import is_image_file, read_by_pillow
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_processor import MediaProcessor, ready_item
from chatbridge.processors.media_source import Ref, name_of, reasons
from chatbridge.processors.piece_choice import sample_frames, uniform_frames
from chatbridge.processors.video_decord import read_by_decord
from chatbridge.processors.video_index import Choose
from chatbridge.processors.video_pyav import examine_by_pyav, read_by_pyav
from chatbridge.processors.video_torchcodec import read_by_torchcodec

Backend = Literal["auto", "decord", "pyav", "torchcodec"]
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class VideoProcessor(MediaProcessor):
    """`num_frames` frames of a video, each through the image processor. Only wanted frames leave the decoder.

    backend    "pyav" seeks to the key frame before a wanted frame and skips frames nothing refers to; "torchcodec" and
               "decord" decode everything from the key frame on. "pyav" and "torchcodec" choose the same frames,
               "decord" only for usual files (see video_decord, video_torchcodec). "auto" follows
               `limits.video_backend`; if that is "auto" too, the first of pyav, decord and torchcodec that is
               installed (PyAV is the fastest, see benchmarks/data_video.py)
    sampling   at evaluation: "groups" takes the middle of each group as training does at random; "uniform" steps evenly
               from the first frame, as the public demo did. A caller in Python sets it; no YAML key does

    Every call opens and closes its file, so a fork of loader workers copies no open file. Frames are resized after
    decoding, as in training (the reference let the decoder resize at evaluation).
    """

    counted = "num_frames"

    def __init__(
        self,
        image: ImageProcessor,
        num_frames: int = 4,
        backend: Backend = "auto",
        sampling: Literal["groups", "uniform"] = "groups",
    ):
        if backend not in get_args(Backend):
            raise ValueError(f"unknown video backend {backend!r}; allowed: {', '.join(get_args(Backend))}")
        self.image = image
        self.num_frames = num_frames
        self.backend = backend
        self.sampling = sampling

    def within(self, limits: Limits) -> Self:
        """A copy that keeps these limits, in its frames too."""
        other = super().within(limits)
        other.image = self.image.within(limits)
        return other

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Tensor:
        """float[T, 3, size, size] with T = num_frames, or uint8 of lean images. A tensor is raw pixels
        uint8[frames, 3, H, W] or ready floats.

        raises   MediaError when the video cannot be read or exceeds the limits
        """
        if isinstance(ref, Tensor):
            return self._from_tensor(ref, rng)
        self.check_file(ref)
        with reasons(ref, "video"):
            frames = self._read(ref, lambda length: self._choose(length, rng))
            return torch.stack([self.image.from_pixels(frame) for frame in frames])

    def examine(self, ref: Ref) -> None:
        super().examine(ref)
        if isinstance(ref, Tensor):
            return
        with reasons(ref, "video"):
            if not isinstance(ref, bytes) and Path(ref).is_dir():
                read_folder(Path(ref), range, self.image, keep=False)
            elif not is_image_file(ref) and find_spec("av") is not None:
                examine_by_pyav(ref, self.limits)

    def _choose(self, length: int, rng: np.random.Generator | None) -> list[int]:
        if length < 1:
            raise MediaError("it has no frames")
        if rng is not None or self.sampling == "groups":
            return sample_frames(length, self.num_frames, self.piece_rng(rng))
        picks = uniform_frames(length, self.num_frames)
        return picks + picks[-1:] * (self.num_frames - len(picks))

    def _read(self, ref: str | Path | bytes, choose: Choose) -> Sequence[np.ndarray]:
        if not isinstance(ref, bytes) and Path(ref).is_dir():
            return read_folder(Path(ref), choose, self.image)
        if is_image_file(ref):
            return read_by_pillow(ref, choose, self.limits, self.image.background)
        backend = self.backend if self.backend != "auto" else self.limits.video_backend
        read = READERS[installed_backend() if backend == "auto" else backend]
        return read(ref, choose, self.limits)

    def _from_tensor(self, ref: Tensor, rng: np.random.Generator | None) -> Tensor:
        ready = (self.num_frames, 3, self.image.size, self.image.size)
        if ref.is_floating_point() and tuple(ref.shape) == ready:
            return self.image.from_ready(ready_item(ref))
        if ref.dtype == torch.uint8 and ref.ndim == 4 and ref.shape[1] == 3:
            picks = self._choose(len(ref), rng)
            return torch.stack([self.image(ref[index]) for index in picks])
        raise MediaError(
            f"{name_of(ref)} of {ref.dtype}: a video is pixels uint8[frames, 3, H, W] or a ready float{list(ready)}"
        )


READERS: dict[str, Callable[[str | Path | bytes, Choose, Limits], list[np.ndarray]]] = {
    "pyav": read_by_pyav,
    "decord": read_by_decord,
    "torchcodec": read_by_torchcodec,
}
PACKAGES = {"pyav": "av", "decord": "decord", "torchcodec": "torchcodec"}  # backend -> package, by preference


def installed_backend() -> str:
    """The first backend whose package is installed; pyav, whose error names the extra, where none is."""
    return next((name for name, package in PACKAGES.items() if find_spec(package) is not None), "pyav")


def read_folder(folder: Path, choose: Choose, image: ImageProcessor, keep: bool = True) -> list[np.ndarray]:
    """Frames stored as images, in the order of the numbers in their names (img_2 before img_10), each uint8[H, W, 3].
    Only the wanted ones are opened.

    keep   False checks that they can be read and returns none
    """
    names = sorted(
        (name for name in os.listdir(folder) if not is_hidden(name) and name.lower().endswith(FRAME_SUFFIXES)),
        key=_natural,
    )
    picks = choose(len(names))
    if not keep:
        for index in picks:
            image.pixels(folder / names[index])
        return []
    found = {index: image.pixels(folder / names[index]) for index in set(picks)}
    return [found[index] for index in picks]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
