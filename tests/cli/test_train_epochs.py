"""run.max_epochs: a number of passes over all sources instead of, or beside, a number of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from chatbridge.cli import plan, train
from chatbridge.common.errors import ConfigError
from chatbridge.datasets.build_mixture import steps_of_epochs
from chatbridge.datasets.order.mixture import Mixture
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.train_runs import records, run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def experiment(world: MiniWorld, folder: Path, **settings: Any) -> dict[str, Any]:
    """A run over 12 captions and questions, 4 per step, without max_steps."""
    config = world.experiment(folder, **settings)
    config["data"]["sources"] = {
        "image_qa": world.source("questions", "ti-qa"),
        "audio_cap": world.source("captions", "ta-cap"),
    }
    if "max_steps" not in settings:
        del config["run"]["max_steps"]
    return config


@pytest.mark.parametrize(
    ("sizes", "weights", "given", "epochs", "steps"),
    [
        ((100, 60), (100, 60), {}, 1, 20),  # weight: size, 8 conversations per step
        ((100, 60), (1, 1), {}, 2, 40),  # other weights change the passes of a source, not the end
        ((100, 60), (1, 0), {}, 1, 13),  # a source without weight is not drawn: 100 / 8, rounded up
        ((100, 60), (1, 1), {}, 0.001, 1),
        ((100, 60), (1, 1), {"held_out": {"a": 20}}, 1, 18),  # 140 / 8
        ((100, 60), (1, 3), {"mix": "step", "batches": {"a": 16}}, 1, 16),  # 160 / (16 / 4 + 8 * 3 / 4)
        ((24, 8), (1, 1), {"mix": "micro", "micro_batch": 4}, 3, 12),
    ],
)
def test_an_epoch_draws_as_many_conversations_as_there_are_samples(sizes, weights, given, epochs, steps):
    """fails when the length of an epoch depends on the weights, or not on batches, held-out or unused samples"""
    sources = dict(zip("ab", map(range, sizes)))
    mixture = Mixture(sources, dict(zip("ab", weights)), 3, 8, given.pop("mix", "sample"), **given)
    assert steps_of_epochs(epochs, mixture) == steps


def test_a_run_ends_after_its_epochs(world, tmp_path, capsys):
    """fails when the schedule, the files or --check have another number of steps than the run"""
    config = experiment(world, tmp_path / "run", max_epochs=1.5)
    assert train.main(["--cfg-path", str(write_yaml(tmp_path / "train.yaml", config)), "--check"]) == 0
    assert "max_epochs 1.5 ends the run at step 5" in capsys.readouterr().out  # 1.5 * 12 / 4
    assert plan.main([str(tmp_path / "train.yaml")]) == 0
    assert "5 steps, 20 conversations" in capsys.readouterr().out
    assert run(config, tmp_path, "run.stop_at=2") == 0
    assert run(config, tmp_path) == 0, "a resume compares the same number of steps"
    found = records(tmp_path / "run")
    assert [record["step"] for record in found] == [1, 2, 3, 4, 5] and found[-1]["lr"] < found[1]["lr"]
    settings = yaml.safe_load((tmp_path / "run/resolved.yaml").read_text())["run"]
    assert (settings["max_steps"], settings["max_epochs"]) == (5, 1.5)


@pytest.mark.slow
def test_the_smaller_of_steps_and_epochs_counts(world, tmp_path):
    """fails when one of two limits is ignored"""
    assert run(experiment(world, tmp_path / "a", max_epochs=9, max_steps=2), tmp_path) == 0
    assert run(experiment(world, tmp_path / "b", max_epochs=1, max_steps=9), tmp_path) == 0
    assert [len(records(tmp_path / name)) for name in "ab"] == [2, 3]


def test_mistakes_are_told_before_the_run(world, tmp_path):
    """fails when a run without an end starts, or the check of a warm-up ignores max_epochs"""
    for settings, path, told in (
        ({}, "run.max_steps", "or set run.max_epochs"),
        ({"max_epochs": 0}, "run.max_epochs", "above 0"),
        ({"max_epochs": 1, "schedule": {"warmup_steps": 7}}, "run.schedule.warmup_steps", "the run has 3 steps"),
        ({"max_steps": 2, "max_epoch": 3}, "run.max_epoch", "or run.max_epochs here"),  # of LAVIS
        ({"max_steps": 2, "max_epoc": 3}, "run.max_epoc", "did you mean max_epochs?"),
    ):
        with pytest.raises(ConfigError) as error:
            run(experiment(world, tmp_path / "run", **settings), tmp_path)
        assert path in str(error.value) and told in str(error.value), str(error.value)
    assert not (tmp_path / "run").exists()
