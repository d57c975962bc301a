"""data.image.background: one setting for the color behind transparent pixels, whatever reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.config.merge import read
from chatbridge.config.schema import parse, plain
from chatbridge.experiment.media_plan import plan_media
from chatbridge.experiment.open import open_chat
from chatbridge.experiment.partial_data import read_data
from chatbridge.experiment.roots import Experiment
from tests.helpers.mini_world import MiniWorld, write_yaml

RED = (255, 0, 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def backgrounds(found: Any) -> list[Any]:
    return [found["image"].background, found["video"].image.background]


def test_it_reaches_training_checkpoints_chat_and_data(world: MiniWorld, tmp_path: Path) -> None:
    """fails when one command shows transparent pixels on another color than training did"""
    path = write_yaml(tmp_path / "t.yaml", world.experiment(tmp_path / "run"))
    options = ["data.image.background=red"]
    config = read(Experiment, path, options)[0]
    assert backgrounds(config.model.processors(train=True)) == [RED, RED]
    assert plain(config.model)["encoders"]["vision"]["background"] == "red"  # what resolved.yaml and manifests hold
    assert "background" not in plain(config.model)["encoders"]["audio"]
    assert backgrounds(open_chat(path, options).config.model.processors(train=False)) == [RED, RED]
    senses = plan_media(read_data(path, options))
    assert backgrounds(senses.train) == backgrounds(senses.evaluation) == [RED, RED]


def test_without_it_each_encoder_has_its_own(world: MiniWorld, tmp_path: Path) -> None:
    """fails when the default replaces what an encoder says"""
    path = write_yaml(tmp_path / "t.yaml", world.experiment(tmp_path / "run"))
    config = read(Experiment, path, ["model.encoders.vision.background=blue"])[0]
    assert backgrounds(config.model.processors(train=True)) == [(0, 0, 255)] * 2


def test_a_background_that_changes_nothing_is_a_mistake(world: MiniWorld, tmp_path: Path) -> None:
    """fails when the color of a model that only hears, or a wrong color, passes"""
    experiment = world.experiment(tmp_path / "run")
    experiment["data"]["sources"] = {"audio_qa": experiment["data"]["sources"]["audio_qa"]}
    experiment["data"]["image"] = {"background": "red"}
    model = experiment["model"]
    model["encoders"].pop("vision")
    model["routes"] = {"audio": model["routes"]["audio"]}
    with pytest.raises(ConfigError, match=r"(?s)data\.image\.background.*has no effect"):
        parse(Experiment, experiment)
    path = write_yaml(tmp_path / "t.yaml", world.experiment(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"(?s)data\.image\.background.*snow"):
        read(Experiment, path, ["data.image.background=snow white"])
