"""Trainings with grouped and packed batches: mistakes, the plan, resuming, counts of conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.cli import train
from chatbridge.common.errors import ConfigError
from chatbridge.models.fusion.inline import Inline
from chatbridge.models.loading import read_state
from chatbridge.runners.run_folder import differences
from tests.helpers.batching_world import world_of_lengths
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.train_runs import LAST, losses, run

MAMBA = {"model_type": "mamba", "vocab_size": 360, "hidden_size": 20, "num_hidden_layers": 1, "state_size": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return world_of_lengths(tmp_path_factory.mktemp("world"))


def experiment(world: MiniWorld, output: Path, data: dict[str, Any], **settings: Any) -> dict[str, Any]:
    config = world.experiment(output, **{"micro_batch": 4, "accumulate": 2, **settings})
    config["data"] |= data
    return config


def problems(config: dict[str, Any], folder: Path) -> str:
    with pytest.raises(ConfigError) as error:
        run(config, folder)
    assert not (folder / "run").exists()
    return " ".join(str(error.value).split())


def test_mistakes_of_batching_are_told_together_before_the_run(world: MiniWorld, tmp_path: Path) -> None:
    """fails when a budget below the longest sequence, a language model that cannot isolate, or a setting without effect
    is found only when the model is built, or one mistake hides the other"""
    config = experiment(world, tmp_path / "run", {"batching": "packed", "token_budget": 100, "group_window": 4})
    config["model"]["language"] |= {"weights": None, "tokenizer": str(world.folder / "lm"), "architecture": MAMBA}
    message = problems(config, tmp_path)
    assert "3 problems" in message
    assert (
        "data.token_budget (" in message
        and "is 100, below the longest sequence, 200 tokens (data.max_tokens)" in message
    )
    assert "set token_budget to 200 or more, or cut sequences with data.max_tokens: 100" in message
    assert "data.group_window (" in message and "only grouped sorts a window of steps" in message
    assert "cannot be packed: language model mamba: its layers" in message
    assert "set data.batching: grouped" in message


def test_a_longest_sequence_that_is_not_known(world: MiniWorld, tmp_path: Path) -> None:
    """fails when packed rows get conversations of any length because nothing limits them"""
    config = experiment(world, tmp_path / "run", {"batching": "packed", "max_tokens": None})
    sizes = {"model_type": "bloom", "vocab_size": 360, "hidden_size": 20, "n_layer": 1, "n_head": 2}
    config["model"]["language"] |= {"weights": None, "tokenizer": str(world.folder / "lm"), "architecture": sizes}
    message = problems(config, tmp_path)
    assert "is missing and cannot be derived: the longest sequence is not known" in message
    assert "language model bloom measures distances in columns" in message and "2 problems" in message


def test_a_fusion_that_cannot_keep_conversations_apart(
    world: MiniWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when only the language model is asked, and packed conversations see each other's media"""
    monkeypatch.setattr(Inline, "segments_obstacle", lambda self: "its layers see every medium of a row")
    message = problems(experiment(world, tmp_path / "run", {"batching": "packed"}), tmp_path)
    assert "data.batching (" in message and "fusion inline: its layers see every medium of a row" in message


@pytest.mark.parametrize(
    "data, expected",
    [
        ({"token_budget": 300}, "is 300, but data.batching is padded: only packed rows have a budget"),
        ({"batching": "grouped", "group_window": 0}, "group_window"),
        ({"batching": "pack"}, "did you mean packed?"),
        ({"batching": "packed", "token_budget": 0}, "token_budget"),
    ],
)
def test_settings_that_are_not_valid(world: MiniWorld, tmp_path: Path, data: dict[str, Any], expected: str) -> None:
    """fails when a budget without packed rows, an empty window or an unknown batching is accepted"""
    assert expected.lower() in problems(experiment(world, tmp_path / "run", data), tmp_path).lower()


def test_the_plan_has_the_padding(world: MiniWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when --check does not tell how much of the batches is padding, or tells it of another batching"""
    config = experiment(world, tmp_path / "run", {"batching": "packed"}, max_steps=40)
    path = write_yaml(tmp_path / "train.yaml", config)
    assert train.main(["--cfg-path", str(path), "--check"]) == 0
    printed = capsys.readouterr().out
    section = printed.partition("\nbatching\n")[2].partition("\n\n")[0]
    assert "packed: conversations share rows of at most 512 positions" in section
    assert "0.0% of the positions are padding (padded " in section and "measured on 320 conversations" in section
    assert "4.0 conversations per row" in section


@pytest.mark.parametrize("data", [{"batching": "grouped", "group_window": 3}, {"batching": "packed"}])
def test_a_resumed_run_equals_an_uninterrupted_one(world: MiniWorld, tmp_path: Path, data: dict[str, Any]) -> None:
    """fails when a stop inside a window, or another number of workers, changes a weight by one bit; and when rows are
    counted in place of conversations"""
    whole = experiment(world, tmp_path / "whole", data)
    assert run(whole, tmp_path) == 0
    parts = experiment(world, tmp_path / "parts", data, stop_at=2)
    assert run(parts, tmp_path) == 0
    parts["run"]["stop_at"] = None
    parts["data"]["num_workers"] = 2
    assert run(parts, tmp_path) == 0
    states = [read_state(tmp_path / name / LAST / "model.safetensors") for name in ("whole", "parts")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(one, states[1][name]) for name, one in states[0].items())
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert json.loads((tmp_path / "parts" / LAST / "state.json").read_text())["samples"] == 4 * 8


def test_the_micro_batch_of_a_window_may_not_change(world: MiniWorld, tmp_path: Path) -> None:
    """fails when a resumed run sorts a window into slices of another size: conversations would repeat or be left out"""
    now = experiment(world, tmp_path / "run", {"batching": "grouped", "group_window": 3}, micro_batch=8, accumulate=1)
    before = experiment(world, tmp_path / "run", {"batching": "grouped", "group_window": 3})
    assert differences(before, now) == ["run.micro_batch: 4 -> 8"]
    for one in (before, now):
        one["data"]["group_window"] = 1
    assert differences(before, now) == []
