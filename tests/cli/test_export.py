"""`chatbridge export`: folders that transformers and peft read, components that a YAML reads, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from chatbridge.cli import export
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.models.adapter_layers import inject_adapters, merge_adapters
from chatbridge.models.adapters import AdapterConfig
from chatbridge.models.checkpoint_tensors import shard_files
from chatbridge.models.checkpoints import find_checkpoint
from chatbridge.models.loading import read_state
from chatbridge.models.merging import peft_settings, updates
from chatbridge.runners.run_folder import lock_run_folder
from chatbridge.serve.load import load_model
from tests.helpers.adapter_runs import LORA, AdapterWorld
from tests.helpers.tiny_languages import tiny_language
from tests.helpers.train_runs import LAST, run, run_processes

peft = pytest.importorskip("peft")
IDS = torch.tensor([[1, 5, 6, 7, 8, 30]])
STEPS = {"max_steps": 4, "optimizer": {"lr": 0.05}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AdapterWorld:
    return AdapterWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def lora(world: AdapterWorld) -> Path:
    """A run that trained the bridge and adapters of different ranks on the language model and an encoder."""
    mlp = {"targets": ["language.*down_proj"], "rank": 4, "use_rslora": True}
    assert run(world.lora(world.folder / "lora", [*LORA, mlp], **STEPS), world.folder) == 0
    return world.folder / "lora"


@pytest.fixture(scope="module")
def ours(lora: Path) -> Any:
    """The model of that run, as the demo has it."""
    return load_model(lora).model


def exported(path: Path, out: Path, *arguments: str) -> Path:
    assert export.main([str(path), "--out", str(out), *arguments]) == 0
    return out


def logits(model: Any) -> torch.Tensor:
    """Of our model or of one that transformers has read."""
    with torch.no_grad():
        if hasattr(model, "language"):
            return model.language.logits(model.language(model.language.embed(IDS)))
        return model.eval()(IDS).logits


def test_merged_it_is_a_plain_folder_of_transformers(world, lora, ours, tmp_path):
    """fails when transformers reads another model than the one that was trained, needs peft for it, or finds no
    tokenizer; or when the files are not cut at the size asked for"""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (world.folder / "lm/examination.json").write_text("{}")  # as the quickstart writes beside a model
    out = exported(lora, tmp_path / "out", "--merge", "--component", "language", "--shard-bytes", "20000")
    (world.folder / "lm/examination.json").unlink()
    assert not (out / "examination.json").exists() and (out / "config.json").is_file()
    assert len(list(out.glob("model-*.safetensors"))) > 1 and (out / "model.safetensors.index.json").is_file()
    assert not list(out.glob("adapter_*"))
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    torch.testing.assert_close(logits(model), logits(ours), rtol=1e-5, atol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(world.folder / "lm")
    assert float((logits(plain) - logits(ours)).abs().max()) > 1e-2
    assert AutoTokenizer.from_pretrained(out)("red")["input_ids"] == ours_ids(world)
    half = exported(lora, tmp_path / "half", "--merge", "--component", "language", "--dtype", "bf16")
    assert AutoModelForCausalLM.from_pretrained(half).dtype == torch.bfloat16


def test_a_running_training_and_a_missing_best_are_told(world, lora, tmp_path, capsys):
    """fails when an export takes the checkpoint that a training is writing, or a missing pointer ends in an errno"""
    running = tmp_path / "running"
    shutil.copytree(lora, running)
    (running / "checkpoints/step_000005").mkdir()
    (running / "checkpoints/step_000005/model.safetensors").touch()  # being written
    lock = lock_run_folder(running)
    exported(running, tmp_path / "out", "--component", "language")
    assert "still training; exporting its newest complete checkpoint, step_000004" in capsys.readouterr().out
    shutil.rmtree(running / "checkpoints")
    for path, said in ((running, "no complete checkpoint yet"), (running / "best", "name .*running for its newest"),
                       (tmp_path / "no/best", "there is no run folder")):  # fmt: skip
        with pytest.raises(DataError, match=said):
            exported(path, tmp_path / "never")
    lock.release()


def ours_ids(world: AdapterWorld) -> list[int]:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(world.folder / "lm")("red")["input_ids"]


def test_unmerged_it_is_a_folder_of_peft(world, lora, ours, tmp_path):
    """fails when peft reads other adapters than those that were trained: a rank, a scale or a name is lost"""
    from transformers import AutoModelForCausalLM

    out = exported(lora, tmp_path / "out", "--component", "language")
    assert {path.name for path in out.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    base = AutoModelForCausalLM.from_pretrained(world.folder / "lm")
    model = peft.PeftModel.from_pretrained(base, out)
    torch.testing.assert_close(logits(model), logits(ours), rtol=1e-5, atol=1e-5)
    settings = json.loads((out / "adapter_config.json").read_text())
    assert settings["r"] == 2 and set(settings["rank_pattern"].values()) == {4}
    torch.testing.assert_close(logits(model.merge_and_unload()), logits(ours), rtol=1e-5, atol=1e-5)


def test_other_components_are_files_that_a_yaml_reads(world, lora, ours, tmp_path, capsys):
    """fails when a bridge or an encoder with merged adapters cannot be used as a weights file of another run"""
    out = exported(lora, tmp_path / "out", "--merge")
    assert {path.name for path in out.iterdir()} == {
        "encoders.vision.safetensors", "bridges.perceiver.safetensors", "language"
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "set it as model.bridges.perceiver.weights" in said and "AutoModelForCausalLM.from_pretrained" in said
    config = world.experiment(tmp_path / "next", max_steps=1, optimizer={"lr": 0.0}, schedule={"kind": "constant"})
    model = config["model"]
    model["encoders"]["vision"]["weights"] = str(out / "encoders.vision.safetensors")
    model["bridges"]["perceiver"] |= {"weights": str(out / "bridges.perceiver.safetensors")}
    model["language"]["weights"] = str(out / "language")
    assert run(config, tmp_path) == 0
    images = torch.randn(2, 3, 28, 28)
    again = load_model(tmp_path / "next").model
    with torch.no_grad():
        expected, found = (model.media_tokens({"image": images})["image"] for model in (ours, again))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(again), logits(ours), rtol=1e-5, atol=1e-5)
    unmerged = exported(lora, tmp_path / "unmerged", "--component", "encoders.vision")
    (file,) = unmerged.iterdir()
    assert file.name == "encoders.vision.adapters.safetensors" and len(read_state(file)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_layers_trained_in_full(world, tmp_path, parallel):
    """fails when the tensors that were trained without adapters, or were stored as rows of ranks, are not in the folder
    as a whole"""
    from transformers import AutoModelForCausalLM

    config = world.experiment(tmp_path / "run", max_steps=2)
    config["model"]["trainable"] += ["language.lm.model.layers.1.*"]
    config["run"]["parallel"] = parallel
    done = run_processes(config, tmp_path, num_processes=2 if parallel == "shard" else 1)
    assert done.returncode == 0, done.stderr
    assert bool(shard_files(find_checkpoint(tmp_path / "run"))) == (parallel == "shard")
    model = AutoModelForCausalLM.from_pretrained(
        exported(tmp_path / "run", tmp_path / "out", "--component", "language")
    )
    torch.testing.assert_close(logits(model), logits(load_model(tmp_path / "run").model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_rslora": True}], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_tensors_are_merged_as_peft_does(family: str, settings: dict[str, Any]):
    """fails when the formula differs from peft's for a transposed layer, a magnitude or a scale"""
    language = tiny_language(family).requires_grad_(False)
    targets = ["*c_attn", "*c_fc", "*c_proj"] if family == "gpt2" else ["*q_proj", "*down_proj"]
    adapters = [AdapterConfig(targets=tuple(targets), rank=3, **settings)]
    plain = tiny_language(family)
    inject_adapters(language, adapters)
    for name, parameter in language.named_parameters():
        if ".lora_" in name:
            parameter.data += 0.3 * torch.rand_like(parameter)
    trained = {name: value.detach().clone() for name, value in language.named_parameters() if ".lora_" in name}
    found = updates(plain, adapters, trained)
    merge_adapters(language)
    expected = dict(language.named_parameters())
    assert len(found) == 2 * (4 if family == "gpt2" else 2)
    for layer, update in found.items():
        value: nn.Parameter = plain.get_submodule(layer).weight  # type: ignore[assignment]
        torch.testing.assert_close(update.merged(value.detach()), expected[f"{layer}.weight"], rtol=1e-5, atol=1e-6)


def test_what_is_refused(world, lora, tmp_path, monkeypatch):
    """fails when a folder is overwritten, weights of another model get the adapters, or a full disk leaves a part"""
    with pytest.raises(DataError, match="already exists; choose another folder"):
        export.main([str(lora), "--out", str(world.folder / "lm")])
    with pytest.raises(DataError, match=r"nothing of it was trained.*did you mean bridges\.perceiver\?"):
        export.main([str(lora), "--out", str(tmp_path / "x"), "--component", "bridges.perciever"])
    with pytest.raises(DataError, match="does not exist"):
        export.main([str(tmp_path / "nothing"), "--out", str(tmp_path / "x")])
    other = tmp_path / "other"
    shutil.copytree(world.folder / "lm", other)
    state = read_state(other / "model.safetensors")
    state["model.norm.weight"] = state["model.norm.weight"] + 1
    (other / "model.safetensors").unlink()
    from safetensors.torch import save_file

    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    moved = ["--options", f"model.language.weights={other}"]
    with pytest.raises(DataError, match="language: its weights are not those of the training"):
        export.main([str(lora), "--out", str(tmp_path / "x"), "--merge", *moved])
    with pytest.raises(ConfigError, match=r"(?s)model\.language\.weights.*if it moved: chatbridge export"):
        export.main([str(lora), "--out", str(tmp_path / "x"), "--options", "model.language.weights=/nowhere"])

    def full(*arguments: Any, **settings: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(DataError, match=r"No space left on device \(.*needs about .* are free\); the incomplete"):
        export.main([str(lora), "--out", str(tmp_path / "x"), "--merge"])
    assert not (tmp_path / "x").exists() and not list(tmp_path.glob(".exporting*"))
    damaged = tmp_path / "damaged"
    shutil.copytree(lora / LAST, damaged)
    (damaged / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match=r"model\.safetensors: is truncated"):
        export.main([str(damaged), "--out", str(tmp_path / "x")])


def test_adapters_with_and_without_magnitude_are_no_peft_folder():
    """fails when DoRA of some layers would be dropped or made up"""
    adapters = [AdapterConfig(targets=("*q_proj",), use_dora=True), AdapterConfig(targets=("*v_proj",))]
    language = tiny_language("llama").requires_grad_(False)
    plain = tiny_language("llama")
    inject_adapters(language, adapters)
    found = updates(plain, adapters, dict(language.named_parameters()))
    with pytest.raises(ValueError, match="with and without use_dora; export them merged, with --merge"):
        peft_settings(found, "lm", "folder")
