"""Memory growth of a loader: `python benchmarks/data_memory.py [--videos 5000] [--samples 50000] [--json FILE]`.

Two loaders with two workers each, as in a run: one reads videos with their audio, one reads images from shards. The
resident memory of the main process and its workers is measured after every step; growth is the median of the last fifth
of the measurements over that of the second fifth, since the first fills caches. It must stay below 5 %. Shared pages
count in every process that maps them, so the sum exceeds the memory in use, and a leak in any process is visible.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from data import TOKENIZER, write_shards

BATCH, WORKERS, LIMIT = 10, 2, 0.05


def write_videos(folder: Path, count: int = 25) -> Path:
    """Videos with audio, and records with a question about both."""
    from tests.torture.videos import _video

    lines = []
    for number in range(count):
        _video(folder / f"{number}.mp4", num_frames=16 + number, audio=True)
        parts = [{"type": kind, "path": f"{number}.mp4"} for kind in ("video", "audio")]
        messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": f"video {number}"}]
        lines.append(json.dumps({"messages": messages}))
    file = folder / "videos.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def batches(source: Any, steps: int) -> Iterator[Any]:
    from chatbridge.conversation.layout import Layout
    from chatbridge.conversation.templates import build_template
    from chatbridge.conversation.tokenizer import Tokenizer
    from chatbridge.datasets.loader import build_loader
    from chatbridge.datasets.order.mixture import Mixture
    from chatbridge.processors.audio import AudioProcessor
    from chatbridge.processors.image import ImageProcessor
    from chatbridge.processors.video import VideoProcessor

    image = ImageProcessor(224, train=True, lean=True)
    processors = {"image": image, "video": VideoProcessor(image, num_frames=4), "audio": AudioProcessor()}
    lengths = {"image": 32, "video": 32, "audio": 32}
    layout = Layout(build_template("vicuna_v0"), Tokenizer.from_pretrained(TOKENIZER), lengths)
    mixture = Mixture({"one": source}, {"one": 1.0}, seed=0, global_batch=BATCH)
    loader = build_loader(mixture, layout, processors, micro_batch=BATCH, stop_step=steps, num_workers=WORKERS, seed=0)
    with loader:
        yield from loader


def resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def family() -> list[int]:
    """The ids of this process and its children."""
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return [os.getpid(), *(int(child) for task in tasks for child in task.read_text().split())]


def growth(source: Any, samples: int) -> dict[str, Any]:
    steps = samples // BATCH
    seen = []
    for number, _ in enumerate(batches(source, steps)):
        if number % max(1, steps // 200) == 0:
            seen.append(sum(map(resident_mb, family())))
    seen = seen[: len(seen) - 4]  # workers exit one by one at the end
    fifth = len(seen) // 5
    before, after = median(seen[fifth : 2 * fifth]), median(seen[-fifth:])
    return {"samples": samples, "before_mb": before, "after_mb": after, "growth": after / before - 1, "all_mb": seen}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=5000, help="videos to read with their audio")
    parser.add_argument("--samples", type=int, default=50_000, help="images to read from shards")
    parser.add_argument("--json", type=Path, help="write all figures there")
    asked = parser.parse_args()
    from chatbridge.datasets.builders import BUILDERS

    records, pairs = BUILDERS.get("records"), BUILDERS.get("web_pairs")
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = records(records.Config(file=write_videos(folder)), "videos")
        found["videos"] = growth(videos, asked.videos)
        shards = write_shards(folder, shards=4, samples=500, width=256, height=192)
        photos = pairs(pairs.Config(shards=tuple(shards), modality="image"), "photos")
        found["samples"] = growth(photos, asked.samples)
    print("| read | number | memory before | after | growth |\n|---|---|---|---|---|")
    for kind, one in found.items():
        memory = f"{one['before_mb']:.0f} MB | {one['after_mb']:.0f} MB | {one['growth']:+.1%}"
        print(f"| {kind} | {one['samples']} | {memory} |")
    if asked.json:
        from chatbridge.common.safe_files import replace_text

        replace_text(asked.json, json.dumps(found, indent=2))
    return int(any(one["growth"] > LIMIT for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
