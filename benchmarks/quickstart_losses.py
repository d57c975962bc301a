"""The losses of the quickstart's first 50 steps, in one process and on two ranks: equal to the bit after a refactoring.

    python benchmarks/quickstart_losses.py --write     before the change: record losses in runs/tiny/first_losses.json
    python benchmarks/quickstart_losses.py             after it: compare; the exit code is 1 at the first difference

Needs data/tiny as `make quickstart` writes it. The record holds for one machine and one set of package versions only;
tests/golden/first_losses.json is the record that travels with the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from chatbridge.common.safe_files import replace_text

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "train_configs/tiny_pretrain.yaml"
RECORD = Path("runs/tiny/first_losses.json")
NUM_STEPS = 50
RANKS = {"one_process": 1, "two_ranks": 2}


def losses(num_ranks: int, folder: Path) -> list[float]:
    """Train stage 1 for NUM_STEPS steps with the code of this checkout; returns the loss of every step.

    raises   subprocess.CalledProcessError if the training fails
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"] if num_ranks > 1 else []
    options = [f"run.stop_at={NUM_STEPS}", "run.log_every=1", f"run.output_dir={folder}"]
    command = [sys.executable, *launcher, str(ROOT / "train.py"), "--cfg-path", str(CONFIG), "--options", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def first_difference(found: Sequence[float], recorded: Sequence[float]) -> str | None:
    """Describe the first step whose losses differ; None if all are equal to the bit."""
    if len(found) != len(recorded):
        return f"{len(found)} steps, recorded were {len(recorded)}"
    pairs = enumerate(zip(found, recorded, strict=True), start=1)
    return next(
        (f"step {step}: loss {one!r}, recorded was {other!r}" for step, (one, other) in pairs if one != other), None
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if all losses are equal or were recorded, 1 if one differs, 2 without a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"record the losses in {RECORD}")
    parser.add_argument("--record", type=Path, default=RECORD, help="another file for the record")
    asked = parser.parse_args(arguments)
    if not asked.write and not asked.record.is_file():
        print(f"{asked.record} does not exist; record losses with --write before the change", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        found = {name: losses(num_ranks, Path(folder, name)) for name, num_ranks in RANKS.items()}
    if asked.write:
        asked.record.parent.mkdir(parents=True, exist_ok=True)
        replace_text(asked.record, json.dumps(found, indent=1) + "\n")
        return 0
    recorded = json.loads(asked.record.read_text(encoding="utf-8"))
    differences = {name: first_difference(values, recorded[name]) for name, values in found.items()}
    for name, difference in differences.items():
        print(f"{name}: {difference or f'{len(found[name])} losses equal to the bit'}")
    return int(any(differences.values()))


if __name__ == "__main__":
    sys.exit(main())
