"""A loader over small shards; `python resume_data.py FOLDER WORKERS` prints the content of its batches step by step.

A separate process of tests/datasets/test_resume.py, which kills it.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.datasets.build_mixture import build_mixture
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.loader import build_loader
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.image import ImageProcessor
from tests.helpers.tiny_media import jpeg, layout, pairs, wav, write_json, write_tar

MIXES = ("sample", "step", "micro")
KILLED = ("sample", "step")  # mixed and homogeneous: read by the process that is killed
GLOBAL_BATCH = 8
END = 37 + 50


def prepare(folder: Path) -> None:
    """Images in three shards, one in ten broken; audio with two questions each."""
    for number in range(3):
        members = pairs(20, first=20 * number)
        members[2 * number] = (members[2 * number][0], jpeg(side=40)[:200])
        write_tar(folder / f"pictures-{number}.tar", members)
    for number in range(5):
        (folder / f"s{number}.wav").write_bytes(wav(200 + 100 * number, seconds=0.05))
    questions = [
        {"video_id": f"s{n}", "question": [f"what {n}", "which"], "answer": [f"tone {n}", "x"]} for n in range(5)
    ]
    write_json(folder / "sounds.json", questions)


def config(folder: Path, mix: str) -> DataConfig:
    pictures: dict[str, Any] = {"name": "web_pairs", "shards": f"{folder}/pictures-*.tar", "modality": "image"}
    sounds: dict[str, Any] = {"name": "questions", "annotations": f"{folder}/sounds.json", "tag": "ta-qa"}
    sounds |= {"audio_folder": str(folder), "weight": 2, "batch": 4 if mix == "step" else None}
    return parse(DataConfig, {"sources": {"pictures": pictures, "sounds": sounds}, "mix": mix})


def steps(
    folder: Path,
    mix: str,
    workers: int,
    start: int,
    stop: int = END,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 2,
) -> Iterator[list[Batch]]:
    """The micro-batches of one rank; 8 conversations per step for any number of ranks."""
    data = config(folder, mix)
    sources = {name: choice.part(choice.config, name) for name, choice in data.sources.items()}
    micro_batch = GLOBAL_BATCH // (world * accumulate)
    mixture = build_mixture(data, sources, 11, GLOBAL_BATCH, micro_batch=micro_batch)
    processors = {
        "image": ImageProcessor(size=4, train=True),
        "audio": AudioProcessor(mel_bins=8, target_frames=16),
    }
    with build_loader(
        mixture, layout("vicuna_v0"), processors, micro_batch=micro_batch, accumulate=accumulate, rank=rank,
        world=world, start_step=start, stop_step=stop, num_workers=workers, seed=5,
    ) as loader:  # fmt: skip
        yield from loader


def ids(batches: list[Batch]) -> list[list[str]]:
    return [list(batch.sample_ids) for batch in batches]


def digest(batches: list[Batch]) -> int:
    """A checksum of a step: ids of tokens and targets, pixels, audio, replaced samples."""
    content = b""
    for batch in batches:
        tensors = [batch.ids, batch.target, batch.predict_at, *(batch.media[key] for key in sorted(batch.media))]
        content += b"".join(tensor.numpy().tobytes() for tensor in tensors) + repr(batch.failures).encode()
    return zlib.crc32(content)


def main(folder: Path, workers: int) -> None:
    running = [(mix, steps(folder, mix, workers, 0, stop=1000)) for mix in KILLED]
    for step in range(1000):
        for mix, batches in ((mix, next(one)) for mix, one in running):
            print(json.dumps([step, mix, ids(batches), digest(batches)]), flush=True)
        if step == 36:
            time.sleep(600)  # long enough to be killed


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
