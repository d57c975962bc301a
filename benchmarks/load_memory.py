"""How much memory loading a sharded language model takes: `python benchmarks/load_memory.py [--gigabytes 2.2]`.

Writes a Llama in bfloat16 in shards (random values, temporary folder, removed afterwards), loads it in a fresh process
as train.py does (ChatModel, then load_weights), and prints a JSON line per dtype:

    weights_gb   size of what the model holds afterwards
    peak_gb      highest resident memory above that of the process before loading, pages of the mapped file included
    anonymous_gb the part of it that is the process's own; the rest are file pages, which ranks share
    ratio        peak / weights; must stay below 1.2
    own_ratio    anonymous / weights
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

GB = 1e9
SHARD_BYTES = 500_000_000
LIMIT = 1.2


def write_llama(folder: Path, gigabytes: float | None) -> None:
    """A folder as save_pretrained writes it. None: the shape of a 13B, in sparse files of zeros that take no disk."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    width, hidden, heads, layers = (5120, 13824, 40, 40) if gigabytes is None else (2048, 5632, 32, 1)
    if gigabytes is not None:
        layers = max(1, round((gigabytes * GB - 4 * width * 32000) / (2 * (4 * width**2 + 3 * width * hidden))))
    sizes = {"hidden_size": width, "intermediate_size": hidden, "num_attention_heads": heads, "vocab_size": 32000}
    config = AutoConfig.for_model("llama", num_hidden_layers=layers, dtype="bfloat16", **sizes)
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in AutoModelForCausalLM.from_config(config).state_dict().items()}
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        if filled + 2 * shape.numel() > SHARD_BYTES and shards[-1]:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += 2 * shape.numel()
    files_by_name = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / file, {name: shapes[name] for name in names}, is_sparse=gigabytes is None)
        files_by_name |= dict.fromkeys(names, file)
    total = sum(2 * shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": files_by_name}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_shard(path: Path, shapes: dict[str, Any], is_sparse: bool) -> None:
    """A safetensors file of bfloat16 tensors; a file of zeros is only given its length."""
    import torch
    from safetensors.torch import save_file

    if not is_sparse:
        noise = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)).mul(0.02).bfloat16()
        sizes = {name: shape.numel() for name, shape in shapes.items()}
        tensors = {name: noise.repeat(-(-size // len(noise)))[:size].view(shapes[name]) for name, size in sizes.items()}
        save_file(tensors, path, {"format": "pt"})
        return
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * shape.numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    words = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(words)) + words)
        file.truncate(8 + len(words) + end)


def resident() -> dict[str, float]:
    """GB of this process: VmRSS in all, RssAnon its own, RssFile pages of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "RssAnon", "RssFile")))
    return {name: int(value.split()[0]) * 1024 / GB for name, value in found.items()}


class Peak:
    """Highest memory while the block runs, looked at every 2 ms."""

    def __enter__(self) -> Peak:
        self.start = resident()
        self.highest = dict(self.start)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._done.set()
        self._thread.join()

    def above_start(self, name: str) -> float:
        return self.highest[name] - self.start[name]

    def _watch(self) -> None:
        while not self._done.is_set():
            self.highest = {name: max(value, self.highest[name]) for name, value in resident().items()}
            time.sleep(0.002)


def measure(folder: Path, dtype_name: str, touches_all: bool) -> dict[str, Any]:
    """Call it in a fresh process. Loading, the fingerprint that proves which weights they are, one look at all."""
    import torch
    from transformers import AutoModelForCausalLM  # noqa: F401  (its import is not what is measured)

    from chatbridge.config.schema import parse
    from chatbridge.models.chat_model import ChatModel
    from chatbridge.models.config import ModelConfig
    from chatbridge.models.loading import load_weights
    from chatbridge.models.start_from_checkpoint import fingerprint
    from chatbridge.models.trainable import set_trainable

    vision = {"name": "eva_vit", "width": 24, "depth": 1, "heads": 2, "mlp_ratio": 2.0, "image_size": 28}
    config = parse(ModelConfig, {
        "encoders": {"vision": vision}, "bridges": {"bridge": {"name": "linear"}},
        "language": {"name": "causal_lm", "weights": str(folder)},
        "routes": {"image": {"encoder": "vision", "bridge": "bridge"}}, "trainable": ["bridges.*"],
    })  # fmt: skip
    started = time.perf_counter()
    with Peak() as peak:
        model = ChatModel(config)
        set_trainable(model, config.trainable)
        load_weights(model, "cpu", getattr(torch, dtype_name))
        seconds = time.perf_counter() - started
        fingerprint(model.language.state_dict())
        for parameter in model.parameters() if touches_all else ():  # every page once, as a forward pass would
            parameter.detach().flatten()[::512].sum()
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / GB
    ratios = {"ratio": peak.above_start("VmRSS") / weights, "own_ratio": peak.above_start("RssAnon") / weights}
    return {
        "dtype": dtype_name, "weights_gb": round(weights, 3), "peak_gb": round(peak.above_start("VmRSS"), 3),
        "anonymous_gb": round(peak.above_start("RssAnon"), 3), "seconds": round(seconds, 1),
        **{name: round(value, 3) for name, value in ratios.items()},
    }  # fmt: skip


def main() -> int:
    """Exit code 1 when a ratio is not below the limit."""
    parser = argparse.ArgumentParser(description="Peak memory of loading a sharded language model.")
    parser.add_argument("--gigabytes", type=float, default=2.2, help="size of the files in bfloat16")
    parser.add_argument(
        "--sparse-13b", action="store_true", help="instead: 26 GB of zeros that no disk holds, bfloat16"
    )
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], help="what the model is held in")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the process that measures
    asked = parser.parse_args()
    if asked.folder is not None:
        print(json.dumps(measure(asked.folder, asked.dtypes[0], not asked.sparse_13b)))
        return 0
    is_good = True
    with tempfile.TemporaryDirectory(prefix="chatbridge_load_") as name:
        write_llama(Path(name), None if asked.sparse_13b else asked.gigabytes)
        for dtype in ["bfloat16"] if asked.sparse_13b else asked.dtypes:
            command = [sys.executable, __file__, "--folder", name, "--dtypes", dtype]
            command += ["--sparse-13b"] if asked.sparse_13b else []
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                sys.stderr.write(done.stderr)
                return 1
            line = done.stdout.strip().splitlines()[-1]
            print(line, flush=True)
            is_good &= json.loads(line)["ratio"] < LIMIT
    return 0 if is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
