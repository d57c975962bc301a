"""A YAML whose settings are not those a checkpoint was trained with is an error with a table, in every command."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge import __main__ as commands
from chatbridge.cli import train
from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse, plain
from chatbridge.models.checkpoint_manifest import seal_manifest
from chatbridge.models.config import ModelConfig
from chatbridge.models.manifest_check import reconcile
from chatbridge.models.setting_differences import difference_table
from chatbridge.serve.engine import ChatEngine
from tests.helpers.mini_world import MiniWorld, write_yaml


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


@pytest.mark.parametrize("parts", [(), ("zero_to_fp32.py",)])
def test_a_folder_without_checkpoints_is_an_error_before_anything_is_loaded(world, tmp_path, parts):
    """fails when --check passes a folder that holds no checkpoint, or does not name the next step for DeepSpeed's"""
    for name in parts:
        (tmp_path / name).touch()
    said = "join them with zero_to_fp32.py" if parts else "has no checkpoints in it; expected a run folder"
    with pytest.raises(ConfigError, match=f"(?s)run.init_from.*{said}"):
        reconcile(parse(ModelConfig, world.model(), path="model"), tmp_path, None)


CHANGES = [
    (("bridges", "perceiver", "num_queries"), 5, "model.bridges.perceiver.num_queries"),
    (("bridges", "perceiver"), {"name": "linear", "pool": 2}, "model.bridges.perceiver.name"),
    (("encoders", "audio", "target_frames"), 64, "model.encoders.audio.target_frames"),
    (("routes", "video", "frames"), {"count": 4, "merge": "separate"}, "model.routes.video.pieces"),
]


@pytest.mark.parametrize(("keys", "value", "path"), CHANGES)
def test_a_setting_that_changes_what_tensors_mean_is_an_error(world, start, keys, value, path):
    """fails when tensors of the same shape are used with settings they were not trained with"""
    model = parse(ModelConfig, changed(world, *keys, value=value), path="model")
    with pytest.raises(ConfigError) as error:
        reconcile(model, start, None)
    message = str(error.value)
    assert (
        path in message and "setting" in message and "checkpoint" in message and "run.model_from=checkpoint" in message
    )
    assert reconcile(model, start, "yaml").model == model and path in "\n".join(reconcile(model, start, "yaml").notes)
    taken = reconcile(model, start, "checkpoint").model
    assert reconcile(taken, start, None).model == taken
    assert plain(taken) == plain(parse(ModelConfig, world.model(), path="model"))


def test_settings_that_change_no_meaning_pass(world, start):
    """fails when dropout, start values, different locations of files or a new modality prevent stage 2 from starting"""
    model = changed(world, "bridges", "perceiver", "dropout", value=0.3)
    model["bridges"]["perceiver"] |= {"output_std": 0.1, "new_queries": "normal"}
    model["trainable"] = ["bridges.*", "language.*"]
    model["routes"].pop("audio")
    model["encoders"].pop("audio")
    model["bridges"]["perceiver"]["queries"].pop("audio", None)
    config = parse(ModelConfig, model, path="model")
    assert reconcile(config, start, None).model == config


def test_a_stage_may_have_a_template_of_its_own_and_an_evaluation_not(world, start):
    """fails when captions cannot be followed by dialogues, or questions use template strings that were not trained"""
    model = parse(ModelConfig, world.model(), path="model")
    assert reconcile(model, start, None).template is None
    with pytest.raises(ConfigError, match=r"template\s+\"caption\"\s+\"vicuna_v0\""):
        reconcile(model, start, None, "caption")
    assert reconcile(model, start, "checkpoint", "caption").template == {"name": "vicuna_v0", "human": "Human: "}
    assert reconcile(model, start, "yaml", "caption").template is None


def test_every_command_compares(world, start, tmp_path):
    """fails when evaluate, a training with init_from, or the chat loads tensors without checking their manifest"""
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


@pytest.mark.parametrize("side", ["checkpoint", "yaml", None])
def test_audio_channels_are_those_of_the_checkpoint(world, start, side):
    """fails when a checkpoint older than `channels` and `background` uses today's defaults without a note"""
    checkpoint = start / "checkpoints/step_000002"
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    model = manifest["model"]
    model["encoders"]["audio"] = {"name": "beats"}
    model["encoders"]["vision"] = {"name": "eva_vit"}
    now = parse(ModelConfig, model, path="model")
    manifest["model"] = json.loads(json.dumps(plain(now), default=str))
    assert manifest["model"]["encoders"]["audio"].pop("channels") == "mean"
    assert manifest["model"]["encoders"]["vision"].pop("background") == "white"
    seal_manifest(checkpoint / "manifest.json", manifest)
    settled = reconcile(now, start, side, "vicuna_v0")
    audio: Any = settled.model.encoders["audio"].config
    assert audio.channels == ("first" if side == "checkpoint" else "mean")
    message = "\n".join(settled.notes)
    assert (
        "audio.channels" in message and "only the first channel" in message and "vision.background is white" in message
    )


CHAT = "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + eos_token }}{% endfor %}"


def test_another_text_of_a_chat_template_is_an_error(world, start, tmp_path):
    """fails when an evaluation or the chat uses a chat template file that is not the training's, the
    table shows two texts as equal, or the checkpoint's side does not bring its text"""
    file = tmp_path / "mine.jinja"
    file.write_text(CHAT.replace("eos_token", "'!'"))
    model = world.model()
    model["language"] |= {"template": "hf_chat", "chat_template": str(file)}
    checkpoint = start / "checkpoints/step_000002"
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest |= {"model": plain(parse(ModelConfig, model)), "template": {"name": "hf_chat", "chat_template": CHAT}}
    seal_manifest(checkpoint / "manifest.json", manifest)
    asked = {"model": model, "evaluation": {"tasks": {"qa": world.tasks()["image_qa"]}},
             "run": {"output_dir": str(tmp_path / "eval"), "init_from": str(start)}}  # fmt: skip
    path = str(write_yaml(tmp_path / "e.yaml", asked))
    for look in (
        lambda: commands.main(["evaluate", "--cfg-path", path, "--check"]),
        lambda: ChatEngine.from_config(path),
    ):
        with pytest.raises(ConfigError) as error:
            look()
        (row,) = [line for line in str(error.value).splitlines() if "template.chat_template" in line]
        assert "'!'" in row and "eos_token" in row
    taken = reconcile(parse(ModelConfig, model), start, "checkpoint", "hf_chat")
    assert taken.template == {"name": "hf_chat", "chat_template": CHAT}
    file.write_text(CHAT)
    assert reconcile(parse(ModelConfig, model), start, None, "hf_chat").notes == ()
    model["language"].pop("chat_template")  # the tokenizer's own is another text
    with pytest.raises(ConfigError, match="template.chat_template +null"):
        reconcile(parse(ModelConfig, model), start, None, "hf_chat")


def test_old_manifests_know_fewer_settings(world, start):
    """fails when a setting that a later version added counts as a difference"""
    checkpoint = start / "checkpoints/step_000002"
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["model"]["bridges"]["perceiver"]["cross_every"]
    seal_manifest(checkpoint / "manifest.json", manifest)
    model = parse(ModelConfig, world.model(), path="model")
    assert reconcile(model, start, None).model == model
    assert difference_table([])[0].split() == ["setting", "YAML", "checkpoint"]


def test_a_setting_of_the_checkpoint_that_this_version_does_not_have(world, start):
    """fails when run.model_from=checkpoint ends in a KeyError for a setting that was renamed since"""
    checkpoint = next((start / "checkpoints").iterdir()) if (start / "checkpoints").is_dir() else start
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["model"]["encoders"]["audio"]["chanels"] = "first"
    seal_manifest(checkpoint / "manifest.json", manifest)
    with pytest.raises(ConfigError, match=r"encoders\.audio\.chanels"):
        reconcile(parse(ModelConfig, world.model(), path="model"), start, "checkpoint")
