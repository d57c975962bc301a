"""benchmarks/step.py: its three networks compute the same loss and gradient, and its table is complete."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import step
from benchmarks.step_shapes import SMALL, grouped, packed, padded, padding, pairs, samples


@pytest.fixture(scope="module")
def sides() -> dict[str, step.Side]:
    return step.sides("dialogues", torch.float32, SMALL, 2, 4, 0.5)


def test_all_sides_have_one_loss(sides: dict[str, step.Side]) -> None:
    """fails when the transcription, transformers' parts, grouping or packing compute another loss than ours"""
    assert step.assert_equal_losses(sides, 1e-5) > 1.0


def test_an_unequal_loss_ends_the_benchmark(sides: dict[str, step.Side]) -> None:
    """fails when sides may differ: a speed-up that changes the loss is not one"""
    wrong = {**sides, "ours, padded": sides["ours, padded"]._replace(loss=lambda batch: 1.0)}
    with pytest.raises(AssertionError, match="ours, padded"):
        step.assert_equal_losses(wrong, 1e-5)


def test_batches_hold_the_same_conversations() -> None:
    """fails when grouping or packing drops a conversation, or does not save padding"""
    drawn = samples("captions", 16, SMALL, seed=3)
    ways = [padded(drawn, 4), grouped(drawn, 4), packed(drawn, 4)]
    names = [sorted(name for batch in way for name in batch.sample_ids) for way in ways]
    assert names[0] == names[1] == names[2]
    shares = [padding(way) for way in ways]
    assert shares[0] > shares[1] > shares[2]
    assert sum(map(pairs, ways[2])) == sum(len(sequence) ** 2 for _, sequence in drawn)


@pytest.mark.slow
def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a run of the small networks does not end, or a side is missing in the table or the file"""
    file = tmp_path / "step.json"
    arguments = ["--tiny", "--rows", "captions", "--dtypes", "bf16", "--steps", "2", "--rounds", "1"]
    assert step.main([*arguments, "--json", str(file)]) == 0
    (result,) = json.loads(file.read_text())["results"]
    names = [row["side"] for row in result["sides"]]
    assert names == ["reference", "transformers", "ours, padded", "ours, grouped", "ours, packed"]
    assert all(row["GFLOP"] > 0 and row["ms"][0] > 0 for row in result["sides"])
    assert f"| {names[-1]} |" in capsys.readouterr().out


def test_a_missed_target_is_named() -> None:
    """fails when the exit code does not depend on the measured ratio"""
    row: Any = {"side": "ours, grouped", "against reference": step.spread([1.5])}
    result = {"kind": "captions", "dtype": "fp32", "sides": [row], "loss memory MB": {"ratio": 0.2}}
    assert step.missed(result) == ["ours, grouped"]
    row["against reference"] = step.spread([1.8])
    assert step.missed(result) == []
    assert step.missed({**result, "loss memory MB": {"ratio": 0.3}}) == ["loss memory"]


def test_a_side_takes_a_step() -> None:
    """fails when a side's step does not train its Q-Former"""
    shapes = replace(SMALL, depth=1, bridge_depth=1)
    found = step.sides("captions", torch.float32, shapes, 1, 2, 0.5)
    for name, side in found.items():
        before = side.loss(side.batches[0])
        for _ in range(3):
            side.step(side.batches[0])
        assert side.loss(side.batches[0]) < before, name
