"""Trainings of a miniature world, in this process or in several of their own, and what they wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from chatbridge.cli import train
from tests.helpers.mini_world import train_command, write_yaml
from tests.helpers.preloaded_processes import run_python, run_ranks

LAST = "checkpoints/step_000004"


def run(config: dict[str, Any], folder: Path, *options: str) -> int:
    """train.py in this process."""
    path = write_yaml(folder / "train.yaml", config)
    return train.main(["--cfg-path", str(path), *(["--options", *options] if options else [])])


def run_processes(config: dict[str, Any], folder: Path, *options: str, num_processes: int = 1) -> Any:
    path = write_yaml(folder / "train.yaml", config)
    command = train_command(path, *options)[1:]
    return run_ranks(command, num_processes, cwd=folder) if num_processes > 1 else run_python(command, cwd=folder)


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": root}


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in records(folder)]
