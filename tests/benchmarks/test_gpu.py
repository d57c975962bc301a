"""benchmarks/gpu.sh on a machine without a GPU: its parts run, write their files, and fail alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_models import SIZES, TINY, batches, build


def test_limits_leave_ten_minutes(repository: Path) -> None:
    """fails when the time limits of the parts exceed the ten minutes that a lent machine has"""
    lines = (repository / "benchmarks/gpu.sh").read_text(encoding="utf-8").splitlines()
    limits = [int(line.split()[2]) for line in lines if line.strip().startswith("part ")]
    assert len(limits) >= 6
    assert sum(limits) < 590


def test_step_by_component() -> None:
    """fails when a part of the step is not timed, its operations are not counted, or a batch lacks its images"""
    found = gpu.measure_steps(TINY, 2, torch.device("cpu"))
    for name in ("encoders.vision", "bridges.perceiver", "language", "head"):
        assert found["ms"][f"forward {name}"] > 0, name
        assert found["MFU by component"][f"forward {name}"] > 0, name
    assert found["ms"]["backward language and head"] > 0
    assert found["ms"]["backward bridges.perceiver"] > 0
    assert found["samples/s"] > 0
    assert found["profile"]


def test_batches_are_image_text() -> None:
    """fails when the loader gives no pixels as bytes, or batches are not sorted by length"""
    size = TINY
    loader = batches(size, build(size, torch.device("cpu")))
    one, other = next(loader), next(loader)
    pixels = one.media["image"]
    assert isinstance(pixels, torch.Tensor) and pixels.dtype == torch.uint8
    assert one.ids.shape[1] >= other.ids.shape[1]


@pytest.mark.parametrize("name", ["7b", "13b"])
def test_shapes_are_those_of_the_published_models(name: str) -> None:
    """fails when a model is not of the size that its figures claim"""
    billions = sum(one.numel() for one in build(SIZES[name], torch.device("meta")).parameters()) / 1e9
    assert billions == pytest.approx({"7b": 6.74, "13b": 13.02}[name] + 0.99 + 0.11, abs=0.1)


@pytest.mark.slow
def test_whole_script(repository: Path, tmp_path: Path) -> None:
    """fails when a part of the script fails, or its summary lacks a part"""
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", "benchmarks/gpu.sh", "--tiny"]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)
    parts = [json.loads(line) for line in (tmp_path / "parts.jsonl").read_text().splitlines()]
    logs = "\n".join(file.read_text() for file in tmp_path.glob("*.log"))
    assert [part["exit"] for part in parts] == [0] * 4, logs
    assert "step_13b" in done.stdout and "| sdpa |" in (tmp_path / "summary.md").read_text()
