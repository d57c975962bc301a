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
from benchmarks.gpu_models import SIZES, TINY, batches, build, tiny


def test_limits_leave_ten_minutes(repository: Path) -> None:
    """fails when the time limits of the parts exceed the ten minutes that a lent machine has"""
    text = (repository / "benchmarks/gpu.sh").read_text(encoding="utf-8")
    lines = [line.split() for line in text.splitlines() if line.strip().startswith("part ")]
    limits = {line[1]: int(line[2]) for line in lines}
    modern = sum(limit for name, limit in limits.items() if "modern" in name)
    assert len(limits) == len(lines) >= 9
    assert modern + limits["environment"] < 590 and sum(limits.values()) - modern < 590


def test_step_by_component() -> None:
    """fails when a part of the step is not timed, its operations are not counted, or a batch lacks its images"""
    found = gpu.measure_steps(TINY, 2, torch.device("cpu"))
    for name in ("encoders.vision", "bridges.perceiver", "language", "head"):
        assert found["ms"][f"forward {name}"] > 0, name
        assert found["MFU by component"][f"forward {name}"] > 0, name
    assert found["ms"]["backward language and head"] > 0
    assert found["ms"]["backward bridges.perceiver"] > 0
    assert 0 < found["samples/s"] < found["tokens/s"]
    assert found["profile"]


def test_batches_are_image_text() -> None:
    """fails when the loader gives no pixels as bytes, or batches are not sorted by length"""
    size = TINY
    loader = batches(size, build(size, torch.device("cpu")))
    one, other = next(loader), next(loader)
    pixels = one.media["image"]
    assert isinstance(pixels, torch.Tensor) and pixels.dtype == torch.uint8
    assert one.ids.shape[1] >= other.ids.shape[1]


def test_step_of_a_shipped_model() -> None:
    """fails when the parts of configs/models/modern_2b.yaml are not found by their names, or one is not timed"""
    found = gpu.measure_steps(tiny(SIZES["modern_2b"]), 1, torch.device("cpu"))
    for name in ("encoders.eyes", "bridges.see", "language", "head"):
        assert found["ms"][f"forward {name}"] > 0 and found["MFU by component"][f"forward {name}"] > 0, name
    assert found["ms"]["backward bridges.see"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "billions"), [("modern_2b", 1.81), ("modern_4b", 4.44), ("modern_8b", 8.62)])
def test_shipped_models_have_their_sizes(name: str, billions: float) -> None:
    """fails when a figure of modern_8b would be that of another model: eyes + bridge + language model"""
    model = build(SIZES[name], torch.device("meta"))
    assert sum(one.numel() for one in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.03)
    assert set(model.encoders) == {"eyes"} and {one.device.type for one in model.parameters()} == {"meta"}


@pytest.mark.parametrize("name", ["7b", "13b"])
def test_shapes_are_those_of_the_published_models(name: str) -> None:
    """fails when a model is not of the size that its figures claim"""
    billions = sum(one.numel() for one in build(SIZES[name], torch.device("meta")).parameters()) / 1e9
    assert billions == pytest.approx({"7b": 6.74, "13b": 13.02}[name] + 0.99 + 0.11, abs=0.1)


def test_a_wrong_set_of_parts_is_refused(repository: Path, tmp_path: Path) -> None:
    """fails when a mistyped PARTS spends the lent machine on the other set"""
    environment = {**os.environ, "OUT": str(tmp_path / "out"), "PARTS": "modem"}
    command = ["bash", "benchmarks/gpu.sh"]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "chatbridge and modern" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("parts_of", "count", "row"), [("chatbridge", 4, "step_13b"), ("modern", 4, "step_modern_8b")])
def test_whole_script(repository: Path, tmp_path: Path, parts_of: str, count: int, row: str) -> None:
    """fails when a part of the script fails, or its summary lacks a part"""
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"PARTS": parts_of}
    command = ["bash", "benchmarks/gpu.sh", "--tiny"]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)
    parts = [json.loads(line) for line in (tmp_path / "parts.jsonl").read_text().splitlines()]
    logs = "\n".join(file.read_text() for file in tmp_path.glob("*.log"))
    assert [part["exit"] for part in parts] == [0] * count, logs
    assert row in done.stdout
    assert ("| sdpa |" in (tmp_path / "summary.md").read_text()) == (parts_of == "chatbridge")
