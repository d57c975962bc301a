"""A YAML whose settings are not those a checkpoint was trained with is refused with a table, everywhere."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from mini_world import MiniWorld, write_yaml

import train
from chatbridge import __main__ as commands
from chatbridge.common.errors import ConfigError
from chatbridge.common.schema import parse, plain
from chatbridge.models.checkpoint_files import seal_manifest
from chatbridge.models.manifest_check import settle, table
from chatbridge.models.settings import ModelConfig
from chatbridge.serve.engine import ChatEngine


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture
def start(world: MiniWorld, tmp_path: Path) -> Path:
    """A checkpoint that only has a manifest: of the miniature model, with its template."""
    checkpoint = tmp_path / "checkpoints/step_000002"
    checkpoint.mkdir(parents=True)
    config = parse(ModelConfig, world.model(), path="model")
    manifest = {"format": "chatbridge-checkpoint-1", "step": 2, "model": plain(config), "files": {}}
    seal_manifest(checkpoint / "manifest.json", {**manifest, "template": {"name": "vicuna_v0", "human": "Human: "}})
    return tmp_path


def changed(world: MiniWorld, *keys: str, value: Any) -> dict[str, Any]:
    model = copy.deepcopy(world.model())
    node = model
    for key in keys[:-1]:
        node = node.setdefault(key, {})
    node[keys[-1]] = value
    return model


CHANGES = [
    (("bridges", "perceiver", "num_queries"), 5, "model.bridges.perceiver.num_queries"),
    (("bridges", "perceiver"), {"name": "linear", "pool": 2}, "model.bridges.perceiver.name"),
    (("encoders", "audio", "target_frames"), 64, "model.encoders.audio.target_frames"),
    (("routes", "video", "frames"), {"count": 4, "merge": "separate"}, "model.routes.video.pieces"),
]


@pytest.mark.parametrize(("keys", "value", "path"), CHANGES)
def test_a_setting_that_changes_what_tensors_mean_is_refused(world, start, keys, value, path):
    """fails when tensors of the same shape are read as something they were not trained to be"""
    model = parse(ModelConfig, changed(world, *keys, value=value), path="model")
    with pytest.raises(ConfigError) as error:
        settle(model, start, None)
    said = str(error.value)
    assert path in said and "setting" in said and "checkpoint" in said and "run.model_from=checkpoint" in said
    assert settle(model, start, "yaml").model == model and path in "\n".join(settle(model, start, "yaml").notes)
    taken = settle(model, start, "checkpoint").model
    assert settle(taken, start, None).model == taken
    assert plain(taken) == plain(parse(ModelConfig, world.model(), path="model"))


def test_settings_that_change_no_meaning_pass(world, start):
    """fails when dropout, start values, other places of files or a new modality keep stage 2 from starting"""
    model = changed(world, "bridges", "perceiver", "dropout", value=0.3)
    model["bridges"]["perceiver"] |= {"output_std": 0.1, "new_queries": "normal"}
    model["trainable"] = ["bridges.*", "language.*"]
    model["routes"].pop("audio")
    model["encoders"].pop("audio")
    model["bridges"]["perceiver"]["queries"].pop("audio", None)
    config = parse(ModelConfig, model, path="model")
    assert settle(config, start, None).model == config


def test_a_stage_may_have_a_template_of_its_own_and_an_evaluation_not(world, start):
    """fails when captions cannot be followed by dialogues, or questions are asked in strings that were not trained"""
    model = parse(ModelConfig, world.model(), path="model")
    assert settle(model, start, None).template is None
    with pytest.raises(ConfigError, match=r"template\s+\"caption\"\s+\"vicuna_v0\""):
        settle(model, start, None, "caption")
    assert settle(model, start, "checkpoint", "caption").template == {"name": "vicuna_v0", "human": "Human: "}
    assert settle(model, start, "yaml", "caption").template is None


def test_every_command_compares(world, start, tmp_path):
    """fails when evaluate, a training with init_from, or the chat takes tensors without a look at their manifest"""
    model = changed(world, "bridges", "perceiver", "num_queries", value=5)
    experiment = {**world.experiment(tmp_path / "run", init_from=str(start)), "model": model}
    asked = {"model": model, "evaluation": {"tasks": {"qa": world.tasks()["image_qa"]}},
             "run": {"output_dir": str(tmp_path / "eval"), "init_from": str(start)}}  # fmt: skip
    training, evaluation = write_yaml(tmp_path / "t.yaml", experiment), write_yaml(tmp_path / "e.yaml", asked)
    for look in (
        lambda: train.main(["--cfg-path", str(training), "--check"]),
        lambda: commands.main(["evaluate", "--cfg-path", str(evaluation), "--check"]),
        lambda: ChatEngine.from_config(evaluation),
    ):
        with pytest.raises(ConfigError, match=r"num_queries\s+5\s+3"):
            look()
    assert train.main(["--cfg-path", str(training), "--check", "--options", "run.model_from=checkpoint"]) == 0
    assert not (tmp_path / "run").exists()


def test_old_manifests_know_fewer_settings(world, start):
    """fails when a setting that a later version added counts as a difference"""
    checkpoint = start / "checkpoints/step_000002"
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["model"]["bridges"]["perceiver"]["cross_every"]
    seal_manifest(checkpoint / "manifest.json", manifest)
    model = parse(ModelConfig, world.model(), path="model")
    assert settle(model, start, None).model == model
    assert table([])[0].split() == ["setting", "YAML", "checkpoint"]
