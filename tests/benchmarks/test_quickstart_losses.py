"""benchmarks/quickstart_losses.py: a difference in the last bit is reported."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def benchmark(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart_losses", repository / "benchmarks/quickstart_losses.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_first_difference_is_named(benchmark: ModuleType):
    """fails when a loss may differ in its last bit, or a missing step is not a difference"""
    assert benchmark.first_difference([1.5, 0.25], [1.5, 0.25]) is None
    assert benchmark.first_difference([1.5, 0.25], [1.5]) == "2 steps, recorded were 1"
    said = benchmark.first_difference([1.5, math.nextafter(0.25, 1.0)], [1.5, 0.25])
    assert said is not None and said.startswith("step 2: loss 0.25000000000000")


def test_what_is_recorded_is_compared(benchmark, tmp_path: Path, monkeypatch, capsys):
    """fails when --write and the comparison do not use the same record, or the exit code hides a difference"""
    values = {1: [0.5] * 3, 2: [0.75] * 3}
    monkeypatch.setattr(benchmark, "losses", lambda num_ranks, folder: list(values[num_ranks]))
    record = tmp_path / "record.json"
    assert benchmark.main(["--record", str(record)]) == 2
    assert benchmark.main(["--record", str(record), "--write"]) == 0
    assert json.loads(record.read_text()) == {"one_process": values[1], "two_ranks": values[2]}
    assert benchmark.main(["--record", str(record)]) == 0
    values[2][1] = math.nextafter(0.75, 0.0)
    assert benchmark.main(["--record", str(record)]) == 1
    printed = capsys.readouterr().out
    assert "one_process: 3 losses equal to the bit" in printed and "two_ranks: step 2: loss 0.74999" in printed
