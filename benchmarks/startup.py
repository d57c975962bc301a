"""How long commands take before they do their work.

`python -m benchmarks.startup [--json FILE] [--rounds 5] [--cfg-path train_configs/tiny_pretrain.yaml]` prints a table.
Every figure is of fresh processes, in turns; wall clock and processor time are medians over rounds.

    help           `chatbridge --help`, which imports no torch (target: below 0.15 s on a quiet machine)
    train --help   what a command imports before it reads its arguments
    import torch   for comparison
    13B on meta    a 13B-shaped ChatModel (EVA-ViT-g, Q-Former) without weights and memory, imports included
    building       imports and the building of one model (167 million parameters, fp32) from its files, before any data:
                   ours, the reference's way and transformers' parts (startup_sides.py)
    first step     `chatbridge train` of a configuration until its first line of metrics; needs its data, so it is left
                   out where --cfg-path has none (the default needs data/tiny, which `make quickstart` writes)
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import startup_sides
from benchmarks.step_shapes import Shapes
from chatbridge.common.safe_files import replace_text

ROOT = Path(__file__).parents[1]
HELP = ["-m", "chatbridge", "--help"]
HELP_TARGET = 0.15  # seconds, wall clock
BUILD_13B = """
import torch
from benchmarks.gpu_models import SIZES, build
print(sum(one.numel() for one in build(SIZES["13b"], torch.device("meta")).parameters()))
"""
WRITE = """
from pathlib import Path
from benchmarks.startup_sides import write
from benchmarks.step_shapes import Shapes
write(Path({folder!r}), {shapes!r})
"""
COMMANDS = {
    "help": HELP,
    "train --help": ["-m", "chatbridge", "train", "--help"],
    "import torch": ["-c", "import torch"],
    "13B on meta": ["-c", BUILD_13B],
}
MODULES = "import sys; from chatbridge.__main__ import main; main({arguments}); print(*sorted(sys.modules))"


def modules(arguments: Sequence[str]) -> set[str]:
    """The modules that a command imports, by a fresh process."""
    text = run(["-c", MODULES.format(arguments=list(arguments))])
    return set(text.splitlines()[-1].split())


def run(arguments: Sequence[str]) -> str:
    """Run Python; returns its output. raises CalledProcessError when it fails"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def seconds(arguments: Sequence[str]) -> tuple[float, float]:
    """Wall clock and processor time of a fresh process."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    run(arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, processor


def built(rounds: int, shapes: Shapes) -> list[dict[str, Any]]:
    """A table row per way of building a model, in turns; their parameters are the same."""
    with tempfile.TemporaryDirectory() as folder:
        run(["-c", WRITE.format(folder=folder, shapes=shapes)])
        commands = {
            f"building, {side}": ["-m", "benchmarks.startup_sides", side, folder] for side in startup_sides.SIDES
        }
        check_same({name: run(arguments) for name, arguments in commands.items()})
        return _rows(commands, rounds)


def check_same(outputs: Mapping[str, str]) -> None:
    """raises ValueError when the sides did not build the same model: parameters within 1 %, equal word embeddings"""
    found = {name: tuple(map(float, text.split()[-2:])) for name, text in outputs.items()}
    (count, words), *others = found.values()
    if any(abs(one / count - 1) > 0.01 or other != words for one, other in others):
        raise ValueError(f"the sides built different models (parameters, sum of the word embeddings): {found}")


def first_step(config: Path) -> float:
    """Seconds from the start of a training to the first line of its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["run.stop_at=1", "run.log_every=1", f"run.output_dir={folder}/run", "run.resume=never"]
        start = time.time()
        run(["-m", "chatbridge", "train", "--cfg-path", str(config), "--options", *options])
        return os.stat(Path(folder, "run", "metrics.jsonl")).st_mtime - start


def measured(rounds: int) -> list[dict[str, Any]]:
    """A table row per command."""
    return _rows(COMMANDS, rounds)


def _rows(commands: Mapping[str, Sequence[str]], rounds: int) -> list[dict[str, Any]]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(rounds + 1):  # the first fills the file cache
        for name, arguments in commands.items():
            taken = seconds(arguments)
            if number:
                found[name].append(taken)
    return [
        {"command": name, "wall s": statistics.median(wall for wall, _ in times), "lowest wall s": min(times)[0],
         "processor s": statistics.median(processor for _, processor in times)}
        for name, times in found.items()
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 when --help imports torch, whatever the times are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cfg-path", type=Path, default=ROOT / "train_configs/tiny_pretrain.yaml")
    given = parser.parse_args(arguments)
    rows, imported = measured(given.rounds), modules(["--help"])
    rows += built(given.rounds, startup_sides.MEDIUM)
    if given.cfg_path != parser.get_default("cfg_path") or (ROOT / "data/tiny").is_dir():
        rows.append({"command": "first step", "wall s": first_step(given.cfg_path)})
    print("| command | wall, median s | lowest | processor, median s |\n|---|---|---|---|")
    for row in rows:
        cells = (row["wall s"], row.get("lowest wall s"), row.get("processor s"))
        print(f"| {row['command']} | " + " | ".join("" if one is None else f"{one:.3f}" for one in cells) + " |")
    print(
        f"\n--help imports {len(imported)} modules, torch {'among them' if 'torch' in imported else 'not among them'}"
    )
    if given.json is not None:
        replace_text(given.json, json.dumps({"rows": rows, "modules of --help": len(imported)}, indent=1))
    return int("torch" in imported)


if __name__ == "__main__":
    raise SystemExit(main())
