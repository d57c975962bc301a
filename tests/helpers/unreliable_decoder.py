"""A decoder that crashes, hangs or is slow, by the name of the file, and a loader that uses it."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS, Dataset
from chatbridge.datasets.loader import BatchLoader, build_loader
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_processor import MediaProcessor
from tests.helpers.tiny_media import layout, write_json


class Decoder(MediaProcessor):
    """Decodes by the name of the file: normally, or with a crash, an exit, a hang in C, a hang in Python."""

    def __init__(self, limit_s: float = 60.0):
        self.limits = Limits(time_limit_s=limit_s)

    def __call__(self, ref: Any, rng: np.random.Generator | None = None) -> Tensor:
        name = Path(ref).stem
        if name.startswith("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if name.startswith("exit"):
            os._exit(3)
        if name.startswith("freeze"):
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # sleep would return, which other C does not
            ctypes.PyDLL(None).sleep(300)  # holds the GIL
        if name.startswith("slow"):
            time.sleep(60)
        if name.startswith("stubborn"):
            for _ in range(3):
                with suppress(Exception):  # as decoders do
                    time.sleep(60)
        return torch.full((2,), float(rng.random() if rng is not None else 0))


def source(folder: Path, names: list[str], after_id: str = "") -> Dataset:
    lines = [
        {
            "id": name + after_id,
            "messages": [
                {"role": "user", "content": [{"type": "image", "path": f"{name}.jpg"}]},
                {"role": "assistant", "content": f"this is {name}"},
            ],
        }
        for name in names
    ]
    part = BUILDERS.get("records")
    return part(parse(part.Config, {"file": str(write_json(folder / "r.jsonl", lines))}), "web")


def loader(folder: Path, names: list[str], limit_s: float = 60.0, after_id: str = "", **options: Any) -> BatchLoader:
    mixture = Mixture({"web": source(folder, names, after_id)}, {"web": 1.0}, 3, 4)
    given = {"stop_step": 6, "num_workers": 2, "seed": 5, **options}
    return build_loader(mixture, layout(), {"image": Decoder(limit_s)}, micro_batch=4, **given)


def contents(steps: list[list[Batch]]) -> list[tuple[Any, ...]]:
    return [(batch.sample_ids, batch.ids.tolist(), batch.media["image"].tolist()) for (batch,) in steps]


GOOD = [f"good{number}" for number in range(9)]
