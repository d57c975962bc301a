"""A training step with the feature cache and without: reading, decoding, encoding, the rest, and what is stored.

`python -m benchmarks.feature_cache [--json FILE] [--media video,image]` writes a small data set (16 clips of 640 x 360,
or 64 photos of 640 x 480), builds a cache per storage format with `chatbridge cache`, and prints

    storage    bytes of a piece, pieces per second of the build, and the error of the stored values
    steps      processor time of reading a batch of 8 and of its step (forward and backward), in turns in one process
               with one thread; a ratio is the median over rounds, with quartiles

The network: ViT 6 x 256 (image 224, patch 14), Q-Former 6 x 256 with 32 queries, which is trained, Llama 8 x 512 with
32,000 words. Files are in the page cache of the system in both cases.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.data import photo
from benchmarks.data_video import write_clip
from benchmarks.measure import in_rounds, ratio, spread
from chatbridge.cli import cache
from chatbridge.common.dist import Dist
from chatbridge.common.safe_files import replace_text
from chatbridge.common.seeds import seed_everything
from chatbridge.datasets.feature_cache.index import FeatureIndex
from chatbridge.datasets.feature_cache.record import records
from chatbridge.datasets.feature_cache.values import RowLayout
from chatbridge.datasets.loader import build_loader
from chatbridge.datasets.quarantine import Quarantine
from chatbridge.experiment.build import build_model
from chatbridge.experiment.data import open_data, run_mixture
from chatbridge.experiment.feature_cache.cached_processors import cached_processors
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Experiment
from chatbridge.processors.media_processor import with_limits

STORED = ("fp32", "bf16", "int8")
MEDIA = "decode and encode"
BATCH, STEPS, READ = 8, 2, 8  # conversations of a step; steps of a round; steps that are read in a round
WORDS = ("man", "rides", "red", "horse", "green", "field", "two", "dogs", "behind", "old", "house", "near", "water")
ENCODERS = {  # pieces of real encoders: tokens and channels
    "EVA-ViT-g, 224": (257, 1408), "CLIP ViT-L/14, 224": (257, 1024), "BEATs, 10 s": (512, 768),
}  # fmt: skip


def write_world(folder: Path, kind: str, size: int) -> None:
    """The media with captions (log-normal lengths, median 14 words), and a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    rng = np.random.default_rng(0)
    (folder / kind).mkdir(parents=True)
    captions = []
    for number in range(size):
        if kind == "video":
            write_clip(folder / kind / f"{number}.mp4", seconds=3, pan=60 + number)
        else:
            (folder / kind / f"{number}.jpg").write_bytes(photo(rng, 640, 480))
        count = max(3, round(float(rng.lognormal(np.log(14), 0.4))))
        captions.append({"video_id": str(number), "caption": " ".join(rng.choice(WORDS, count))})
    replace_text(folder / "captions.json", json.dumps(captions))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    inner = Tokenizer(
        models.WordLevel({**vocabulary, **{f"Ġ{word}": 300 + n for n, word in enumerate(WORDS)}}, "<unk>")
    )
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder / "tokenizer")


def write_config(folder: Path, kind: str, is_tiny: bool, values: str | None) -> Path:
    """The YAML of a run; values: of the cache, None without one."""
    depth, width, words = (1, 32, 600) if is_tiny else (6, 256, 32000)
    wide = 2 * width
    media_folder = {f"{kind}_folder": str(folder / kind)}
    source = {"name": "captions", "annotations": str(folder / "captions.json"), "tag": f"t{kind[0]}", **media_folder}
    route: dict[str, Any] = {"encoder": "vision", "bridge": "perceiver"}
    if kind == "video":
        route["frames"] = {"count": 4}
    found: dict[str, Any] = {
        "model": {
            "encoders": {"vision": {"name": "eva_vit", "width": width, "depth": depth, "heads": width // 32,
                                    "mlp_ratio": 4.0, "image_size": 224}},
            "bridges": {"perceiver": {"name": "qformer", "num_queries": 32, "num_layers": depth, "width": width,
                                      "heads": width // 32, "dropout": 0.0, "queries": {kind: "visual"}}},
            "language": {"name": "causal_lm", "tokenizer": str(folder / "tokenizer"), "template": "vicuna_v0",
                         "architecture": {"vocab_size": words, "hidden_size": wide, "intermediate_size": 4 * wide,
                                          "num_hidden_layers": 1 if is_tiny else 8, "num_attention_heads": wide // 64,
                                          "bos_token_id": 1, "eos_token_id": 2}},
            "routes": {kind: route},
            "trainable": ["bridges.*"],
        },
        "data": {"sources": {"captions": source}, "media": {"piece_choice": "fixed"}, "num_workers": 0},
        "run": {"output_dir": str(folder / "run"), "max_steps": 10_000, "micro_batch": BATCH, "device": "cpu",
                "optimizer": {"lr": 1e-4}, "threads": 1},
    }  # fmt: skip
    if values is not None:
        found["data"]["feature_cache"] = {"folder": str(folder / "cache"), "values": values}
    path = folder / f"{values or 'media'}.yaml"
    replace_text(path, yaml.safe_dump(found, sort_keys=False))
    return path


class Side:
    """A run as train.py builds it: `read` gives the batches of a round, `step` computes their gradients."""

    def __init__(self, path: Path) -> None:
        opened = open_config(Experiment, path)
        config, data, dist = opened.config, open_data(opened), Dist()
        seed_everything(config.run.seed)
        self.built = build_model(config.model)
        self.built.load_weights(dist.device, config.run.precision)
        model = self.model = self.built.model
        processors: dict[str, Any] = {
            name: with_limits(one, config.data.media) for name, one in model.processors(train=True).items()
        }
        processors |= cached_processors(config, model, data.sources, Quarantine(), dist)
        mixture = run_mixture(config.data, config.run, data.sources, 1)
        layout = self.built.layout(config.template)
        loader = build_loader(mixture, layout, processors, micro_batch=BATCH, stop_step=10_000, num_workers=0, seed=1)
        self.steps = iter(loader)
        self.batches = [batch for step in islice(self.steps, STEPS) for batch in step]

    def read(self) -> int:
        """Read the next batches."""
        return len(list(islice(self.steps, READ)))

    def step(self) -> float:
        """The loss of the round per supervised token."""
        losses = []
        for batch in self.batches:
            loss = self.model(batch)
            (loss.total / loss.count).backward()
            losses.append(float(loss.total.detach()) / loss.count)
        return sum(losses) / len(losses)


def stored(folder: Path, seconds: dict[str, float]) -> list[dict[str, Any]]:
    """A table row per storage format: bytes, rate of the build, error."""
    rows = []
    for at, record in records(folder / "cache").items():
        index = FeatureIndex(at)
        error = index.head["error"]
        rows.append({
            "values": record.values,
            "bytes": RowLayout(record.tokens, record.width, record.values).row_bytes,
            "pieces": len(index),
            "pieces/s": len(index) / seconds[record.values],
            "relative error": (error["squared"] / error["total"]) ** 0.5,
            "largest error": error["largest"],
            **{name: RowLayout(*shape, record.values).row_bytes for name, shape in ENCODERS.items()},
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["bytes"])


def measured(folder: Path, kind: str, is_tiny: bool, rounds: int) -> dict[str, Any]:
    """Both tables of one kind of media."""
    write_world(folder, kind, (2 if is_tiny else 16 if kind == "video" else 64))
    seconds: dict[str, float] = {}
    for values in STORED:
        start = time.perf_counter()
        cache.main([str(write_config(folder, kind, is_tiny, values)), "--workers", "0"])
        seconds[values] = time.perf_counter() - start
    sides = {MEDIA: Side(write_config(folder, kind, is_tiny, None))}
    sides |= {values: Side(folder / f"{values}.yaml") for values in STORED}
    losses = {name: side.step() for name, side in sides.items()}
    for name, loss in losses.items():
        assert abs(loss / losses[MEDIA] - 1) < (1e-6 if name in (MEDIA, "fp32") else 1e-3), losses
    runs: dict[str, Callable[[], object]] = {}
    for name, side in sides.items():
        runs |= {f"{name}, reading": side.read, f"{name}, step": side.step}
    times = in_rounds(runs, rounds)
    both = {
        name: [a / READ + b / STEPS for a, b in zip(times[f"{name}, reading"], times[f"{name}, step"])]
        for name in sides
    }
    steps = [
        {
            "side": name,
            "reading ms": 1e3 * spread(times[f"{name}, reading"]).median / READ,
            "step ms": 1e3 * spread(times[f"{name}, step"]).median / STEPS,
            "step ratio": ratio(times, f"{MEDIA}, step", f"{name}, step"),
            "ratio": ratio(both, MEDIA, name),
            "loss": losses[name],
        }
        for name in sides
    ]
    return {"media": kind, "storage": stored(folder, seconds), "steps": steps}


def print_tables(found: dict[str, Any]) -> None:
    """Both tables in Markdown."""
    print(f"\n{found['media']}\n\n| values | bytes of a piece | pieces/s of the build | error (rms) | largest error |")
    print("|---|---|---|---|---|")
    for row in found["storage"]:
        error = f"{row['relative error']:.2g} | {row['largest error']:.2g}"
        print(f"| {row['values']} | {row['bytes']:,} | {row['pieces/s']:.1f} | {error} |")
    print("\n| side | reading a batch, ms | its step, ms | step, times as fast | both, times as fast | loss |")
    print("|---|---|---|---|---|---|")
    for row in found["steps"]:
        cost = f"{row['reading ms']:.1f} | {row['step ms']:.0f}"
        print(f"| {row['side']} | {cost} | {row['step ratio']} | {row['ratio']} | {row['loss']:.6f} |")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--media", default="video,image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a network of a few thousand parameters")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = []
    for kind in given.media.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measured(Path(folder), kind, given.tiny, given.rounds))
        print_tables(results[-1])
        if given.json is not None:
            replace_text(given.json, json.dumps({"torch": torch.__version__, "results": results}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
