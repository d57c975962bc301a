"""The first losses of a miniature ChatBridge with all media, kept so that a change of the numbers is made on purpose.

    python -m tests.golden.first_losses            compare the runs with tests/golden/first_losses.json
    python -m tests.golden.first_losses --write    replace the file: after a change that has a reason to move
                                                   losses, which the commit names

Where torch, transformers and the processor are those that wrote the file, losses are equal to the bit; anywhere else
they are equal within tolerances.FIRST_LOSSES.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from chatbridge.cli import train
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.preloaded_processes import REPOSITORY, run_ranks
from tests.helpers.tolerances import FIRST_LOSSES

GOLDEN = Path(__file__).parent / "first_losses.json"
STEPS = 50
DROPOUT_STEPS = 10
CASES = ("one_process", "two_ranks", "dropout")


def run(case: str, world: MiniWorld, folder: Path) -> list[float]:
    """Train in `folder`; returns the loss of every step. Every step takes 8 conversations, whoever computes them."""
    num_ranks = 2 if case == "two_ranks" else 1
    steps = DROPOUT_STEPS if case == "dropout" else STEPS
    settings = {"max_steps": steps, "save_every": steps, "micro_batch": 8 // num_ranks, "optimizer": {"lr": 1e-3}}
    config = world.experiment(folder / case, **settings)
    config["model"] = world.model(dropout=0.1 if case == "dropout" else 0.0)
    path = write_yaml(folder / f"{case}.yaml", config)
    if num_ranks > 1:
        done = run_ranks([str(REPOSITORY / "train.py"), "--cfg-path", str(path)], num_ranks, cwd=folder, timeout_s=900)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    else:
        assert train.main(["--cfg-path", str(path)]) == 0
    return [record["loss"] for record in records(folder / case)]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def compare(case: str, losses: list[float]) -> None:
    """raises AssertionError with the first step that differs"""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    is_same = golden["written_on"] == machine()
    for step, (found, expected) in enumerate(zip(losses, golden[case], strict=True), start=1):
        wanted = expected if is_same else pytest.approx(expected, rel=FIRST_LOSSES)
        assert found == wanted, f"{case}, step {step}: loss {found!r}, the golden has {expected!r}"


def machine() -> dict[str, str]:
    """What decides how sums are rounded."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    facts = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("cpu family", "model"))]
    return " ".join(facts[:3])


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        world = MiniWorld(Path(name) / "world")
        found = {case: run(case, world, Path(name)) for case in CASES}
    if "--write" not in sys.argv[1:]:
        for case, losses in found.items():
            compare(case, losses)
        return
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps({"written_on": machine(), **found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        assert os.environ.get(variable, "1") == "1", f"losses are kept for one thread: unset {variable}"
    torch.set_num_threads(1)
    main()
