"""Video: files by decord or PyAV, or a folder of frames -> float[T, 3, size, size]."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.processors.image import ImageProcessor, read_image
from chatbridge.processors.sampling import sample_frames, uniform_frames
from chatbridge.processors.source import Ref, check_source, name_of, opened, reasons

Backend = Literal["auto", "decord", "pyav"]
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
Choose = Callable[[int], Sequence[int]]  # number of frames -> wanted indices, ascending


class VideoProcessor:
    """`num_frames` frames of a video, each through the image processor. Only wanted frames leave the decoder.

    backend    "decord" seeks to the wanted frames; "pyav" decodes from the start up to the last of them; "auto" is
               decord where it is installed, and PyAV for the files it cannot open
    sampling   at evaluation: "groups" takes the middle of each group as training does at random; "uniform" steps evenly
               from the first frame, as the public demo did

    Every call opens and closes its file, so nothing is carried over a fork into loader workers. Frames are resized
    after decoding, as in training (the reference let the decoder resize at evaluation).
    """

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

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Tensor:
        """float[T, 3, size, size] with T = num_frames. A tensor is raw pixels uint8[frames, 3, H, W] or ready floats.

        raises   MediaError when the video cannot be read
        """
        if isinstance(ref, Tensor):
            return self._from_tensor(ref, rng)
        check_source(ref)
        with reasons(ref, "video"):
            frames = self._read(ref, lambda length: self._choose(length, rng))
            return torch.stack([self.image.from_pixels(frame) for frame in frames])

    def _choose(self, length: int, rng: np.random.Generator | None) -> list[int]:
        if length < 1:
            raise MediaError("it has no frames")
        if rng is not None or self.sampling == "groups":
            return sample_frames(length, self.num_frames, rng)
        picks = uniform_frames(length, self.num_frames)
        return picks + picks[-1:] * (self.num_frames - len(picks))

    def _read(self, ref: str | Path | bytes, choose: Choose) -> list[np.ndarray]:
        if not isinstance(ref, bytes) and Path(ref).is_dir():
            return read_folder(Path(ref), choose)
        if self.backend == "pyav" or (self.backend == "auto" and find_spec("decord") is None):
            return read_by_pyav(ref, choose)
        try:
            return read_by_decord(ref, choose)
        except MediaError:
            raise
        except Exception:
            if self.backend == "decord" or find_spec("av") is None:
                raise
        return read_by_pyav(ref, choose)  # decord is the faster one, PyAV opens more and says why not

    def _from_tensor(self, ref: Tensor, rng: np.random.Generator | None) -> Tensor:
        ready = (self.num_frames, 3, self.image.size, self.image.size)
        if ref.is_floating_point() and tuple(ref.shape) == ready:
            return ref.float()
        if ref.dtype == torch.uint8 and ref.ndim == 4 and ref.shape[1] == 3:
            picks = self._choose(len(ref), rng)
            return torch.stack([self.image(ref[index]) for index in picks])
        raise MediaError(
            f"{name_of(ref)} of {ref.dtype}: a video is pixels uint8[frames, 3, H, W] or a ready float{list(ready)}"
        )


def read_folder(folder: Path, choose: Choose) -> list[np.ndarray]:
    """Frames stored as pictures, in the order of the numbers in their names (img_2 before img_10), read as RGB."""
    files = sorted((path for path in folder.iterdir() if path.suffix.lower() in FRAME_SUFFIXES), key=_natural)
    return _each_once(choose(len(files)), lambda wanted: {index: read_image(files[index]) for index in wanted})


def read_by_decord(ref: str | Path | bytes, choose: Choose) -> list[np.ndarray]:
    """The wanted frames, each uint8[H, W, 3].

    raises   MediaError without a video stream
    """
    from chatbridge.common.extras import need

    decord = need("decord", "reading videos with video backend decord")
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(opened(ref), num_threads=1)
    except decord.DECORDError as error:
        if "cannot find video stream" in str(error):
            raise MediaError("it has no video stream") from error
        raise
    picks = choose(len(reader))
    return _each_once(picks, lambda wanted: dict(zip(wanted, reader.get_batch(wanted).asnumpy(), strict=True)))


def read_by_pyav(ref: str | Path | bytes, choose: Choose) -> list[np.ndarray]:
    """The wanted frames, each uint8[H, W, 3]; decoding stops behind the last of them.

    raises   MediaError without a video stream, or when the file ends before a wanted frame
    """
    from chatbridge.common.extras import need

    av = need("av", "reading videos with video backend pyav")
    with av.open(opened(ref)) as container:
        if not container.streams.video:
            raise MediaError("it has no video stream")
        stream = container.streams.video[0]
        stream.thread_count = 1  # loader workers are the parallelism; starting threads costs more than a short clip
        picks = choose(stream.frames or _count_frames(av, ref))
        return _each_once(picks, lambda wanted: _decode(container, wanted))


def _decode(container: Any, wanted: Sequence[int]) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    index = -1
    for index, frame in enumerate(container.decode(video=0)):
        if index in wanted:
            found[index] = frame.to_ndarray(format="rgb24")
        if index >= wanted[-1]:
            return found
    raise MediaError(f"it breaks off after {index + 1} frames, frame {wanted[-1]} was wanted")


def _count_frames(av: Any, ref: str | Path | bytes) -> int:
    """Some containers (webm, avi) do not say how many frames they hold: decode and count."""
    with av.open(opened(ref)) as container:
        return sum(1 for _ in container.decode(video=0))


def _each_once(picks: Sequence[int], read: Callable[[list[int]], dict[int, np.ndarray]]) -> list[np.ndarray]:
    """Short videos repeat frames: decode each wanted frame once."""
    found = read(sorted(set(picks)))
    return [found[index] for index in picks]


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
