"""Videos as ImageBind reads them: two-second clips, each as two frames in three crops, float[pieces, 3, 2, S, S]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.common.errors import MediaError
from chatbridge.processors.image_file import WHITE, Color
from chatbridge.processors.imagebind_audio import ClipRule, clip_times
from chatbridge.processors.imagebind_image import imagebind_image
from chatbridge.processors.media_processor import PieceCountError, ready_item
from chatbridge.processors.media_source import Ref, name_of, reasons
from chatbridge.processors.piece_choice import taken
from chatbridge.processors.video import Backend, VideoProcessor
from chatbridge.processors.video_rate import frames_per_second

CROPS = 3
FRAMES = 2  # of a clip: its first and its last one


class ImageBindVideoProcessor(VideoProcessor):
    """Clips spread over the video, the same in training and evaluation.

    size         side of a crop, and short side of the frames before it, in pixels
    num_pieces   clips times crops, the crop fastest: 15 are five clips in three crops (left, middle and right, or top,
                 middle and bottom), as released
    clip_rule    where clips begin, see clip_times
    untimed_fps  frames per second of what has no time: a folder of frames, or a tensor
    background   what transparent pixels of an animated image show
    backend      see VideoProcessor

    Frames are resized as float tensors, bilinear and without antialias, as the reference does; they leave the workers
    as float, because rounding to bytes would change them.

    raises   PieceCountError when num_pieces is not a multiple of three
    Source: facebookresearch/ImageBind: imagebind/data.py; golden imagebind_video_preproc.
    """

    counted = "num_pieces"

    def __init__(
        self,
        size: int = 224,
        num_pieces: int = 15,
        clip_rule: ClipRule = "imagebind",
        untimed_fps: float = 25.0,
        background: Color | None = WHITE,
        backend: Backend = "auto",
    ):
        super().__init__(imagebind_image(size, background=background), FRAMES, backend)
        self.num_pieces = _whole_clips(num_pieces)
        self.clip_rule: ClipRule = clip_rule
        self.untimed_fps = untimed_fps

    @property
    def item_shape(self) -> tuple[int, ...]:
        return self.num_pieces, 3, FRAMES, self.image.size, self.image.size

    @property
    def draws(self) -> str | None:
        """None: its clips are fixed in training too, so that features may be cached."""
        return None

    def taking(self, count: int) -> ImageBindVideoProcessor:
        return super().taking(_whole_clips(count))

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Tensor:
        """float[num_pieces, 3, 2, size, size]. A tensor is raw pixels uint8[frames, 3, H, W] or ready floats.

        raises   MediaError when the video cannot be read or exceeds the limits
        """
        with reasons(ref, "video"):
            if isinstance(ref, Tensor):
                return self._from_tensor(ref, rng)
            self.check_file(ref)
            fps = self._rate(ref)
            return self.clips(self._read(ref, lambda length: self.choice(length, fps)))

    def choice(self, length: int, fps: Fraction) -> list[int]:
        """The first and the last frame of each clip, in the order of clips.

        raises   MediaError for a video without frames
        """
        if length < 1:
            raise MediaError("it has no frames")
        picks: list[int] = []
        rate = float(fps)  # the reference multiplies in floating point, and rounds up what is a little too large
        for start, stop in clip_times(length / rate, self.num_pieces // CROPS, self.clip_rule):
            first = min(math.ceil(rate * float(start)), length - 1)
            picks += (first, max(first, min(math.ceil(rate * float(stop)), length) - 1))
        return taken(length, picks)

    def clips(self, frames: Sequence[np.ndarray]) -> Tensor:
        """uint8[H, W, 3] of the chosen frames -> float[num_pieces, 3, 2, size, size]"""
        known: dict[int, Tensor] = {}  # a frame of several clips is resized once
        for frame in frames:
            if id(frame) not in known:
                known[id(frame)] = self.crops(frame)
        cropped = torch.stack([known[id(frame)] for frame in frames])  # [clips * 2, crops, 3, S, S]
        return cropped.unflatten(0, (-1, FRAMES)).permute(0, 2, 3, 1, 4, 5).flatten(0, 1).contiguous()

    def crops(self, frame: np.ndarray) -> Tensor:
        """uint8[H, W, 3] -> normalised float[3, 3, size, size], the first axis being the crops"""
        size, (height, width) = self.image.size, frame.shape[:2]
        short = min(height, width)  # divided before multiplied, as the reference does: 502 / 112 * 224 is 1003.99...
        shape = tuple(size if one == short else math.floor(one / short * size) for one in (height, width))
        x = torch.from_numpy(np.array(frame)).permute(2, 0, 1).float() / 255
        x = self.image.statistics.of_unit(F.interpolate(x[None], shape, mode="bilinear", align_corners=False)[0])
        room = (shape[0] - size, shape[1] - size)
        corners = [(-(-room[0] // 2), -(-room[1] // 2))] * CROPS
        if height > width:
            corners[0], corners[2] = (0, corners[0][1]), (room[0], corners[0][1])
        else:
            corners[0], corners[2] = (corners[0][0], 0), (corners[0][0], room[1])
        return torch.stack([x[:, top : top + size, left : left + size] for top, left in corners])

    def images(self, x: Tensor) -> Tensor:
        """The middle crop of each frame, for a person: float[num_pieces, 3, 2, S, S] -> float[clips * 2, 3, S, S]"""
        middle = x.unflatten(0, (-1, CROPS))[:, CROPS // 2]  # [clips, 3, 2, S, S]
        return middle.transpose(1, 2).flatten(0, 1)

    def _rate(self, ref: str | Path | bytes) -> Fraction:
        return frames_per_second(ref, self.limits.max_pixels) or Fraction(self.untimed_fps)

    def _from_tensor(self, ref: Tensor, rng: np.random.Generator | None) -> Tensor:
        if ref.is_floating_point() and tuple(ref.shape) == self.item_shape:
            return ready_item(ref)
        if ref.dtype == torch.uint8 and ref.ndim == 4 and ref.shape[1] == 3:
            picks = self.choice(len(ref), Fraction(self.untimed_fps))
            frames = {index: ref[index].permute(1, 2, 0).numpy() for index in set(picks)}
            return self.clips([frames[index] for index in picks])
        raise MediaError(
            f"{name_of(ref)} of {ref.dtype}: a video is pixels uint8[frames, 3, H, W] or ready clips "
            f"float{list(self.item_shape)}"
        )


def _whole_clips(num_pieces: int) -> int:
    """raises PieceCountError for a number that is not a multiple of the crops"""
    if num_pieces < 1 or num_pieces % CROPS:
        near = max(1, round(num_pieces / CROPS)) * CROPS
        raise PieceCountError(
            f"a clip is read in {CROPS} crops, so the pieces of a video are a multiple of {CROPS}, such as {near}"
        )
    return num_pieces
