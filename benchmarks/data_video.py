"""Four frames of a video, read in turns: decord at full resolution, ChatBridge's reader, and prepared files.

`python benchmarks/data_video.py [VIDEO ...]` prints a table for each video (default: a generated one, 640 x 360, 25
frames a second, H.264 with B-frames, a key frame every 250). Every side gives the same training frames, uint8 at 224,
and draws the same random frames in a round:

    decord      decord.VideoReader with one thread, get_batch, our resize
    ours        VideoProcessor with the exact-seek reader
    reencoded   the same with the output of dataset_prep.reencode: 256 pixels, a key frame a second
    reencoded by decord, for comparison
    frames      the same with the output of dataset_prep.extract_frames: a folder of 4 JPEGs a second

Videos per second are by wall clock. The column `cpu` compares the processor time of all threads: decord decodes in a
separate thread, and on a busy machine, or with a worker on every core, processor time is the relevant one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NUM_FRAMES, SIDE = 4, 224
WANTED = {"ours / decord": 1.3, "reencoded / decord": 1.8, "frames / decord": 10.0}

Read = Callable[[np.random.Generator], Any]  # uint8[4, 3, 224, 224]


def write_clip(
    path: Path, seconds: float = 15, width: int = 640, height: int = 360, gop: int = 250, pan: int = 90
) -> Path:
    """Write an H.264 video with x264's defaults (three B-frames, CRF 23): a panning background, a moving object, and
    different grain in every frame.

    pan   amplitude of the background in pixels; with 90 it moves by 3 pixels a frame. With faster motion x264 leaves
          fewer frames unreferenced, so the reader can skip fewer
    """
    import av
    from PIL import Image

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 60, width // 8 + 60, 3), dtype=np.uint8)
    ground = np.asarray(Image.fromarray(coarse).resize((width + 480, height + 480), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as container:
        options = {"crf": "23", "g": str(gop), "keyint_min": str(gop)}
        stream: Any = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(round(seconds * 25)):
            x, y = int(200 + pan * np.sin(number / 30)), int(200 + pan * np.cos(number / 23))
            pixels = ground[y : y + height, x : x + width].astype(np.int16)
            left = number * 5 % (width - 80)
            pixels[40:140, left : left + 80] = 255 - pixels[40:140, left : left + 80]
            pixels += rng.normal(0, 3, (height, width, 1)).astype(np.int16)
            frame = av.VideoFrame.from_ndarray(pixels.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def sides_of(path: Path, folder: Path) -> dict[str, Read]:
    """The readers to compare; writes the prepared files of the video into `folder`."""
    sys.path.append(str(Path(__file__).parents[1]))  # dataset_prep is beside the package and not installed
    from chatbridge.processors.image import ImageProcessor
    from chatbridge.processors.video import VideoProcessor
    from dataset_prep.extract_frames import extract_frames
    from dataset_prep.reencode import reencode

    image = ImageProcessor(SIDE, train=True, lean=True)
    small, frames = folder / f"{path.stem}_small.mp4", folder / f"{path.stem}_frames"
    reencode(path, small)
    extract_frames(path, frames)
    ours = VideoProcessor(image, NUM_FRAMES, "pyav")
    return {
        "decord": lambda rng: by_decord(path, image, rng),
        "ours": lambda rng: ours(path, rng),
        "reencoded": lambda rng: ours(small, rng),
        "reencoded by decord": lambda rng: by_decord(small, image, rng),
        "frames": lambda rng: ours(frames, rng),
    }


def by_decord(path: Path, image: Any, rng: np.random.Generator) -> Any:
    """Frames by decord, resized by ChatBridge's processor."""
    import decord
    import torch

    from chatbridge.processors.piece_choice import sample_frames

    reader = decord.VideoReader(str(path), num_threads=1)
    frames = reader.get_batch(sample_frames(len(reader), NUM_FRAMES, rng)).asnumpy()
    return torch.stack([image.from_pixels(frame) for frame in frames])


def compare_backends(path: Path, folder: Path, rounds: int = 10) -> dict[str, Any]:
    """Videos per second of each side in every round, medians, and ratios to decord within a round: `ratios` of videos
    per second, `cpu_ratios` of videos per second of processor time.

    raises   AssertionError when ChatBridge's reader and decord give different frames of the original
    """
    import torch

    torch.set_num_threads(1)
    sides = sides_of(path, folder)
    one, other = (sides[name](np.random.default_rng(0)).int() for name in ("decord", "ours"))
    assert (one - other).abs().max() <= 1, "the two readers give different frames"
    rates: dict[str, list[float]] = {name: [] for name in sides}
    per_cpu: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, read in sides.items():
            started, used = time.perf_counter(), time.process_time()
            read(np.random.default_rng(number))
            rates[name].append(1 / (time.perf_counter() - started))
            per_cpu[name].append(1 / (time.process_time() - used))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    ratios = {"ratios": to_decord(rates), "cpu_ratios": to_decord(per_cpu)}
    return {"samples_per_s": medians, "rounds": rates, **ratios, "wanted": WANTED}


def to_decord(rates: dict[str, list[float]]) -> dict[str, float]:
    """The median over rounds of the ratio within a round, whose sides have the same disturbances."""
    pairs = {name: zip(found, rates["decord"], strict=True) for name, found in rates.items() if name != "decord"}
    return {f"{name} / decord": statistics.median(a / b for a, b in found) for name, found in pairs.items()}


def compare(folder: Path, rounds: int) -> dict[str, Any]:
    """compare_backends on a generated video, for benchmarks/data.py. A round is short, so there are more."""
    return compare_backends(write_clip(folder / "clip.mp4"), folder, 4 * rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in asked.clips or [write_clip(folder / "clip.mp4")]:
            found = compare_backends(path, folder, asked.rounds)
            print(f"\n{path.name}, {path.stat().st_size / 1e6:.1f} MB\n\n| side | clips/s | / decord | cpu | wanted |")
            print("|---|---|---|---|---|")
            for side, value in found["samples_per_s"].items():
                ratio, cpu = (found[kind].get(f"{side} / decord", 1.0) for kind in ("ratios", "cpu_ratios"))
                print(f"| {side} | {value:.1f} | {ratio:.2f} | {cpu:.2f} | {WANTED.get(f'{side} / decord', '')} |")


if __name__ == "__main__":
    main()
