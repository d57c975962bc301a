"""LoRA through the commands: stage 1 without adapters, stage 2 with them, resumed, loaded and evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chatbridge.cli import evaluate, train
from chatbridge.common.errors import ConfigError
from chatbridge.models.checkpoint_manifest import read_manifest
from chatbridge.models.component_tensors import under_own_names
from chatbridge.models.loading import read_state
from chatbridge.serve.load import load_model
from tests.helpers.adapter_runs import AdapterWorld
from tests.helpers.mini_world import write_yaml
from tests.helpers.train_runs import LAST, losses, run

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AdapterWorld:
    return AdapterWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def stage1(world: AdapterWorld) -> Path:
    """A run that trained the bridge, without adapters."""
    assert run(world.experiment(world.folder / "stage1", max_steps=2), world.folder) == 0
    return world.folder / "stage1"


@pytest.fixture(scope="module")
def stage2(world: AdapterWorld, stage1: Path) -> Path:
    """A run with adapters that started from stage 1, uninterrupted."""
    assert run(world.lora(world.folder / "stage2", init_from=str(stage1)), world.folder) == 0
    return world.folder / "stage2"


def test_stage_two_takes_the_bridge_and_trains_fresh_adapters(world, stage1, stage2):
    """fails when a bridge tensor of stage 1 is lost, an adapter tensor is missing in the checkpoint, or its settings
    are not in the manifest"""
    log = (stage2 / "run.log").read_text()
    assert "language: 8 trainable tensors are not in it and keep their initial values" in log
    assert "bridges.perceiver: " in log and "LoRA" in log
    state = read_state(stage2 / LAST / "model.safetensors")
    bridge = set(read_state(stage1 / "checkpoints/step_000002/model.safetensors"))
    adapters = {name for name in state if ".lora_" in name}
    assert set(state) == bridge | adapters and len(adapters) == 8 + 4
    moved = [name for name in adapters if ".lora_B." in name and state[name].any()]
    assert len(moved) == 4 + 2
    manifest = read_manifest(stage2 / LAST)
    assert [one["rank"] for one in manifest["model"]["adapters"]] == [2, 3]
    assert manifest["components"]["language"]["trained"]["tensors"] == 8


def test_resume_with_adapters_is_bit_for_bit(world, stage1, stage2, tmp_path):
    """fails when an adapter, its moments or its dropout differ after a stop"""
    config = world.lora(tmp_path / "stopped", init_from=str(stage1))
    assert run(config, tmp_path, "run.stop_at=2") == 0
    assert run(config, tmp_path) == 0
    assert losses(tmp_path / "stopped") == losses(stage2)
    for file in ("model.safetensors", "optimizer.pt"):
        assert (tmp_path / "stopped" / LAST / file).read_bytes() == (stage2 / LAST / file).read_bytes()


def test_a_bridge_that_stage_two_freezes_is_in_its_checkpoints(world, stage1, tmp_path):
    """fails when adapters alone train after stage 1, and a resume or load_model has another bridge than the training"""
    then = read_state(stage1 / "checkpoints/step_000002/model.safetensors")
    adapters = [{"targets": ["bridges.*query"], "rank": 2}]  # the bridge's own tensors get other names
    config = world.lora(tmp_path / "run", adapters, init_from=str(stage1), max_steps=3)
    config["model"]["trainable"] = []
    assert run(config, tmp_path, "run.stop_at=2") == 0
    assert run(config, tmp_path) == 0
    last = tmp_path / "run/checkpoints/step_000003"
    assert set(read_manifest(last)["carried"]) == set(then)
    model = load_model(last).model
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in under_own_names(model, then).items())
    assert any(value.any() for name, value in state.items() if ".lora_B." in name)


@pytest.mark.slow
def test_a_frozen_bridge_is_the_same_after_a_stop_and_in_a_third_stage(world, stage1, tmp_path):
    """fails when a tensor that is only kept differs in a bit after a resume, or is lost in the stage after"""
    for name in ("through", "stopped", "third"):
        start = stage1 if name != "third" else tmp_path / "stopped"
        config = world.lora(tmp_path / name, init_from=str(start))
        config["model"]["trainable"] = []
        if name == "stopped":
            assert run(config, tmp_path, "run.stop_at=2") == 0
        assert run(config, tmp_path) == 0
    assert losses(tmp_path / "through") == losses(tmp_path / "stopped")
    files = [tmp_path / name / LAST / "model.safetensors" for name in ("through", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert read_manifest(tmp_path / "third" / LAST)["carried"] == read_manifest(tmp_path / "stopped" / LAST)["carried"]


def test_load_model_has_the_adapters(stage2):
    """fails when an answer comes from the language model without its adapters"""
    model = load_model(stage2).model
    state = read_state(stage2 / LAST / "model.safetensors")
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_another_rank_is_a_table(world, stage2, tmp_path):
    """fails when adapters of another size, or a model without them, end in a traceback or load silently"""
    config = world.lora(tmp_path / "other", init_from=str(stage2))
    config["model"]["adapters"][0]["rank"] = 4
    with pytest.raises(ConfigError, match=r"model\.adapters\[0\]\.rank +4 +2"):
        run(config, tmp_path)
    with pytest.raises(ConfigError, match=r"(?s)does not fit this model.*q_proj\.lora_A\.default\.weight +4x20 +2x20"):
        run(config, tmp_path, "run.model_from=yaml")
    del config["model"]["adapters"]
    with pytest.raises(ConfigError, match=r"(?s)model\.adapters\[0\] +null.*model\.adapters\[1\] +null"):
        run(config, tmp_path)


def test_the_plan_has_the_adapters(world, tmp_path, capsys):
    """fails when --check does not show what an adapter trains, or a wrong target is found only with the weights"""
    config = world.lora(tmp_path / "plan")
    path = write_yaml(tmp_path / "train.yaml", config)
    assert train.main(["--cfg-path", str(path), "--check"]) == 0
    said = capsys.readouterr().out
    assert "LoRA, 320 trainable" in said
    assert "LoRA of rank 2, alpha 8, on 4 layers: language.*q_proj, language.*v_proj" in said
    config["model"]["adapters"][0]["targets"] += ["language.*q_porj"]
    path = write_yaml(tmp_path / "train.yaml", config)
    with pytest.raises(ConfigError, match=r"(?s)adapters\[0\]\.targets\[2\].*did you mean language\.\*q_proj"):
        train.main(["--cfg-path", str(path), "--check"])


def test_an_evaluation_without_adapters_takes_those_of_the_checkpoint(world, stage2, tmp_path):
    """fails when answers of a run are evaluated without its adapters, or its YAML must repeat them"""
    model = {key: value for key, value in world.model().items() if key != "trainable"}
    tasks = {"image_qa": world.tasks()["image_qa"]}
    settings = {"output_dir": str(tmp_path / "eval"), "init_from": str(stage2)}
    path = write_yaml(tmp_path / "eval.yaml", {"model": model, "evaluation": {"tasks": tasks}, "run": settings})
    with pytest.raises(ConfigError, match=r"(?s)model\.adapters\[0\] +null.*run\.model_from=checkpoint"):
        evaluate.main(["--cfg-path", str(path)])
    assert evaluate.main(["--cfg-path", str(path), "--options", "run.model_from=checkpoint"]) == 0
    assert list((tmp_path / "eval").rglob("metrics.json"))
