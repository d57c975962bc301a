"""`chatbridge weights ...` with files of OpenFlamingo and Multimodal-GPT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from chatbridge.cli.weights.command import main
from chatbridge.models.adapter_layers import inject_adapters
from chatbridge.models.loading import load_component
from tests.cli.weights.test_full_size import hollow
from tests.helpers.flamingo_release import LORA, adapters, flamingo, flamingo_settings, random_values, released


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """checkpoint.pt, lora.pt and a YAML that names both."""
    folder = tmp_path_factory.mktemp("flamingo")
    model = flamingo(adapters=[LORA])
    base = random_values(model)
    torch.save(released(base), folder / "checkpoint.pt")
    lm: Any = model.language.lm
    lm.save_pretrained(folder / "lm")
    inject_adapters(model, model.config.adapters)
    torch.save(adapters(random_values(model), prefix="module."), folder / "lora.pt")
    settings = {**flamingo_settings(), "adapters": [LORA], "weights": str(folder / "checkpoint.pt")}
    settings["language"] = {"name": "causal_lm", "weights": str(folder / "lm")}
    content = {"model": settings, "run": {"init_from": str(folder / "lora.pt")}}
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    return {name.stem: name for name in folder.iterdir()}


def test_check_compares_both_files(files: dict[str, Path], capsys: Any) -> None:
    """Fails when a part of the base or the adapters are not reported, files in each other's place pass, or layers that
    have adapters are missed in the folder of the language model."""
    assert main(["check", str(files["run"])]) == 0
    out = capsys.readouterr().out
    for line in ("bridges.resampler: loaded 25", "fusion: loaded 22", "added_tokens: loaded 3", "language: loaded 1"):
        assert f"ok  {line}  <- {files['checkpoint']}" in out
    assert f"ok  adapters.language: loaded 32  <- {files['lora']}" in out
    assert f"ok  adapters.fusion: loaded 20  <- {files['lora']}" in out and "7 files, all fit" in out
    swapped = ["--options", f"model.weights={files['lora']}", f"run.init_from={files['checkpoint']}"]
    assert main(["check", str(files["run"]), *swapped]) == 1
    out = capsys.readouterr().out
    assert "NO  model.weights: loaded 0" in out and "the place of OpenFlamingo's checkpoint.pt" in out
    plain = ["--options", f"model.weights={files['run'].parent}"]
    assert main(["check", str(files["run"]), *plain]) == 1
    assert "is a folder without one; expected a weights file" in capsys.readouterr().out


def test_list_and_inspect_know_the_files(files: dict[str, Path], capsys: Any) -> None:
    """Fails when the list lacks a file, or the sum of a file does not say what it holds and where it goes."""
    assert main(["list", str(files["run"]), "--json"]) == 0
    keys = [json.loads(line)["key"] for line in capsys.readouterr().out.splitlines()]
    assert keys == ["model.language.weights", "model.weights", "run.init_from"]
    assert main(["inspect", str(files["checkpoint"])]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    held = "resampler 25, gated blocks 22, language model 1, buffers 4; 22 more are second names"
    assert last == f"OpenFlamingo's weights (tensors: {held}): model.weights reads them"
    assert main(["inspect", str(files["lora"])]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "Multimodal-GPT's weights (tensors: adapters 52): run.init_from reads them"


def test_convert_writes_the_resampler(files: dict[str, Path], tmp_path: Path) -> None:
    """Fails when the resampler of the file does not fill a bridge of its own, or the part to write is guessed."""
    target = tmp_path / "resampler.safetensors"
    assert main(["convert", str(files["checkpoint"]), str(target), "--part", "resampler"]) == 0
    bridge: Any = flamingo(seed=5).bridges["resampler"]
    assert len(load_component(bridge, target).loaded) == len(load_file(target)) == 25
    given = torch.load(files["checkpoint"], weights_only=True)
    own = bridge.state_dict()["blocks.1.attention.to_kv.weight"]
    assert torch.equal(own, given["perceiver.layers.1.0.to_kv.weight"])
    with pytest.raises(ValueError, match="has no resampler"):
        main(["convert", str(files["lora"]), str(tmp_path / "other.safetensors"), "--part", "resampler"])
    with pytest.raises(ValueError, match="model.weights .of adapters run.init_from. reads as it is"):
        main(["convert", str(files["checkpoint"]), str(tmp_path / "other.safetensors")])


@pytest.mark.slow
def test_the_public_files_fill_multimodal_gpt(repository: Path, reference: Path, tmp_path: Path, capsys: Any) -> None:
    """Fails when a name or shape of the public files has no place in the shipped model, or a tensor of it no file."""
    content = json.loads((reference / "openflamingo_9b.json").read_text())
    base = hollow(tmp_path / "openflamingo.safetensors", content["tensors"])
    lora = hollow(
        tmp_path / "mmgpt-lora.safetensors", json.loads((reference / "mmgpt_lora_v0.json").read_text())["tensors"]
    )
    model = str(repository / "eval_configs" / "mmgpt_eval.yaml")
    random = ["model.encoders.vision.weights=null", "model.language.weights=null"]
    assert main(["check", model, "--options", *random, f"model.weights={base}", f"run.init_from={lora}"]) == 0
    out = capsys.readouterr().out
    assert "ok  fusion: loaded 88" in out and "ok  bridges.resampler: loaded 69" in out
    assert "ok  adapters.language: loaded 256" in out and "ok  adapters.fusion: loaded 80" in out
