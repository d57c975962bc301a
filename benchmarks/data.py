"""Compare the speed of reading data with other readers of the same files: `python benchmarks/data.py [--json FILE]`.

Writes shards of photo-like JPEGs with captions and a few videos into a temporary folder, then reads them in turns, so
that other load on the machine affects all sides alike. Images and captions, samples per second with the same number of
workers:

    ours   web_pairs, mixture, layout with a real tokenizer, collate: whole batches for a model, from a shuffle of all
           samples
    ours in windows
           the same with a bounded shuffle like webdataset's: windows of shards with about as many samples
    bare   webdataset, torchvision's JPEG decoder to uint8 at 224, bounded shuffle; captions stay strings
    lavis  webdataset, Pillow, float32, ToTensor, normalise, as in LAVIS

Videos (benchmarks/data_video.py): four frames of an H.264 video, videos per second in one process. The results are
ratios, by wall clock and by the processor time of all processes, which other programs do not change; medians over
rounds.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

SIDE, SHUFFLE = 224, 1000
WANTED = {"ours / bare": 0.95, "ours in windows / bare": 0.95, "ours / lavis": 1.7}
TOKENIZER = Path(__file__).parents[1] / "tests" / "fixtures" / "tiny_llama_tokenizer"
WORDS = ("red", "car", "tree", "river", "dog", "boat", "house", "rain", "two", "people", "under", "beside", "walking")


def photo(rng: np.random.Generator, width: int, height: int) -> bytes:
    """A JPEG with the spectrum of a photo: coarse shapes, finer ones, some grain."""
    from PIL import Image

    layers = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((4, 80), (16, 40), (64, 20), (256, 10)):
        small = rng.normal(0, strength, (cells * height // width + 1, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(small[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            layers[..., channel] += np.asarray(layer)
    layers += rng.normal(128, 3, layers.shape)
    stream = io.BytesIO()
    Image.fromarray(layers.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def write_shards(folder: Path, shards: int, samples: int, width: int, height: int) -> list[str]:
    """Tars in the layout of img2dataset: jpg, txt and json of every sample."""
    rng = np.random.default_rng(0)
    photos = [photo(rng, width, height) for _ in range(64)]
    paths = []
    for shard in range(shards):
        paths.append(str(folder / f"{shard:05}.tar"))
        with tarfile.open(paths[-1], "w") as archive:
            for number in range(samples):
                caption = " ".join(rng.choice(WORDS, size=12))
                about = json.dumps({"caption": caption, "url": "https://example.org/picture.jpg", "status": "success"})
                members = (
                    ("jpg", photos[rng.integers(len(photos))]),
                    ("txt", caption.encode()),
                    ("json", about.encode()),
                )
                for ending, content in members:
                    entry = tarfile.TarInfo(f"{shard:05}{number:04}.{ending}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return paths


def ours(shards: list[str], batch: int, workers: int, window_shards: int | None = None) -> Generator[int, None, None]:
    """Samples per batch of ChatBridge's loader, endless."""
    from chatbridge.conversation.layout import Layout
    from chatbridge.conversation.templates import build_template
    from chatbridge.conversation.tokenizer import Tokenizer
    from chatbridge.datasets.builders import BUILDERS
    from chatbridge.datasets.loader import build_loader
    from chatbridge.datasets.order.mixture import Mixture
    from chatbridge.processors.image import ImageProcessor

    builder = BUILDERS.get("web_pairs")
    source = builder(builder.Config(shards=tuple(shards), modality="image", window_shards=window_shards), "photos")
    layout = Layout(build_template("caption"), Tokenizer.from_pretrained(TOKENIZER), {"image": 32})
    mixture = Mixture({"photos": source}, {"photos": 1.0}, seed=0, global_batch=batch)
    processors = {"image": ImageProcessor(SIDE, train=True, lean=True)}
    stop = 10**6
    loader = build_loader(mixture, layout, processors, micro_batch=batch, stop_step=stop, num_workers=workers, seed=0)
    with loader:
        for (micro,) in loader:
            yield len(micro.sample_ids)


def bare(shards: list[str], batch: int, workers: int) -> Generator[int, None, None]:
    """webdataset with only a decoder."""
    yield from _webdataset(shards, batch, workers, _lean)


def lavis(shards: list[str], batch: int, workers: int) -> Generator[int, None, None]:
    """webdataset with the decoding of LAVIS."""
    yield from _webdataset(shards, batch, workers, _float_by_pillow)


def _webdataset(shards: list[str], batch: int, workers: int, decode: Callable[[bytes], Any]) -> Iterator[int]:
    import torch
    import webdataset

    def pair(sample: dict[str, Any]) -> tuple[Any, str]:
        return decode(sample["jpg"]), sample["txt"].decode()

    def stack(samples: Iterable[tuple[Any, str]]) -> tuple[Any, list[str]]:
        images, captions = zip(*samples, strict=True)
        return torch.stack(images), list(captions)

    data = webdataset.WebDataset(shards, resampled=True, shardshuffle=False).shuffle(SHUFFLE).map(pair)
    data = data.batched(batch, collation_fn=stack)
    for images, _ in torch.utils.data.DataLoader(data, batch_size=None, num_workers=workers):
        yield len(images)


def _lean(content: bytes) -> Any:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    pixels = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return torch.nn.functional.interpolate(pixels[None], (SIDE, SIDE), mode="bilinear", antialias=True)[0]


def _float_by_pillow(content: bytes) -> Any:
    from PIL import Image
    from torchvision.transforms import v2

    from chatbridge.processors.image import CLIP_MEAN, CLIP_STD

    steps = [
        v2.Resize((SIDE, SIDE), v2.InterpolationMode.BICUBIC),
        v2.PILToTensor(),
        v2.ToDtype(_float32(), scale=True),
    ]
    return v2.Compose([*steps, v2.Normalize(CLIP_MEAN, CLIP_STD)])(Image.open(io.BytesIO(content)).convert("RGB"))


def _float32() -> Any:
    import torch

    return torch.float32


def family() -> list[int]:
    """The ids of this process and its children, which are loader workers."""
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return [os.getpid(), *(int(child) for task in tasks for child in task.read_text().split())]


def cpu_seconds() -> float:
    """Processor time of this process and its workers until now."""
    ticks = 0
    for pid in family():
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # user and system
    return ticks / os.sysconf("SC_CLK_TCK")


def rates(batches: Iterator[int], seconds: float, warm_up: int) -> tuple[float, float]:
    """Samples per second by wall clock and per second of processor time, after the first batches."""
    for _ in range(warm_up):
        next(batches)
    start, cpu, count = time.perf_counter(), cpu_seconds(), 0
    while (spent := time.perf_counter() - start) < seconds:
        count += next(batches)
    return count / spent, count / (cpu_seconds() - cpu)


def compare_pairs(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    shards = write_shards(folder, asked.shards, asked.samples, asked.width, asked.height)
    in_windows = partial(ours, window_shards=max(1, SHUFFLE // asked.samples))
    sides = {"ours": ours, "ours in windows": in_windows, "bare": bare, "lavis": lavis}
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(asked.rounds):
        for name, read in sides.items():
            with closing(read(shards, asked.batch, asked.workers)) as batches:
                rounds[name].append(rates(batches, asked.seconds, warm_up=asked.workers * 3))
    found: dict[str, Any] = {"rounds": rounds, "wanted": WANTED}
    for column, kind in enumerate(("samples_per_s", "samples_per_cpu_s")):
        found[kind] = {name: statistics.median(one[column] for one in rounds[name]) for name in sides}
    pairs = (("ours", "bare"), ("ours in windows", "bare"), ("ours", "lavis"))
    for column, kind in enumerate(("ratios", "cpu_ratios")):  # within a round, whose sides have the same disturbances
        found[kind] = {
            f"{one} / {other}": statistics.median(a[column] / b[column] for a, b in zip(rounds[one], rounds[other]))
            for one, other in pairs
        }
    return found


def show(found: dict[str, Any]) -> None:
    print("\n| side | samples/s |\n|---|---|")
    for name, value in found["samples_per_s"].items():
        print(f"| {name} | {value:.0f} |")
    print("\n| ratio | wall clock | processor time | wanted |\n|---|---|---|---|")
    for name, value in found["ratios"].items():
        print(f"| {name} | {value:.2f} | {found['cpu_ratios'][name]:.2f} | {found['wanted'].get(name, '')} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("pairs", "video"), help="one half of the comparison")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--samples", type=int, default=500, help="per shard")
    parser.add_argument("--width", type=int, default=480, help="of the photos, pixels")
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="per side and round, after the warm-up")
    parser.add_argument("--json", type=Path, help="write all figures there")
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if asked.only != "video":
            found["pairs"] = compare_pairs(Path(folder), asked)
            show(found["pairs"])
        if asked.only != "pairs":
            from data_video import compare

            found["video"] = compare(Path(folder), asked.rounds)
            show(found["video"])
    if asked.json:
        from chatbridge.common.safe_files import replace_text

        replace_text(asked.json, json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
