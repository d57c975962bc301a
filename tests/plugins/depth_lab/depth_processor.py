"""From a file of distances to what the encoder takes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.processors.media_processor import MediaProcessor
from chatbridge.processors.media_source import Ref, opened, reasons


class DepthProcessor(MediaProcessor):
    """Disparity of a depth map: float[1, S, S], or float[T, 1, S, S] for T crops along its longer side.

    A .npy file holds metres (float[H, W]), a PNG millimetres in 16 bit; 0 means unknown. ImageBind divides by the
    largest disparity of a scene (facebookresearch/ImageBind, its README's note on depth).
    """

    counted = "num_crops"

    def __init__(self, size: int, num_crops: int) -> None:
        self.size, self.num_crops = size, num_crops

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Tensor:
        """raises   MediaError for a file that holds no map of distances"""
        self.check_file(ref)
        with reasons(ref, "depth map"):
            metres = ref if isinstance(ref, Tensor) else torch.from_numpy(read_metres(ref))
            if metres.ndim != 2 or not bool((metres >= 0).all()):
                raise ValueError(f"expected distances [H, W] of 0 and more, found shape {list(metres.shape)}")
            disparity = torch.where(metres > 0, 1 / metres.clamp(min=1e-3), 0.0)
            disparity = disparity / disparity.max().clamp(min=1e-6)
            crops = disparity.chunk(self.num_crops, dim=int(metres.shape[1] >= metres.shape[0]))
            resized = [F.adaptive_avg_pool2d(crop[None].float(), self.size) for crop in crops]  # [1, S, S] each
        return resized[0] if self.num_crops == 1 else torch.stack(resized)


def read_metres(ref: str | Path | bytes) -> np.ndarray:
    """float32[H, W]"""
    source = opened(ref)
    head = ref[:8] if isinstance(ref, bytes) else Path(ref).read_bytes()[:8]
    if head.startswith(b"\x93NUMPY"):
        return np.load(source, allow_pickle=False).astype(np.float32)
    from PIL import Image

    with Image.open(source if isinstance(source, io.BytesIO) else Path(source)) as image:
        return np.asarray(image).astype(np.float32) / 1000
