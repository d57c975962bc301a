"""Files whose names a wrapper changed are read, and what does not fit is shown from both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from chatbridge.cli.weights import convert
from chatbridge.cli.weights.check import compare
from chatbridge.models.encoders.hf_vision import HFVision
from chatbridge.models.importers.released import load_released
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.loading import load_component, save_component
from chatbridge.models.weight_files import read_state
from tests.helpers.tiny_models import tiny_model


@pytest.fixture(scope="module")
def vision() -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in tiny_model().encoders["vision"].state_dict().items()}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "model.module."])
def test_a_prefix_common_to_the_file_is_removed_and_it_is_said(tmp_path: Path, vision, prefix: str) -> None:
    """fails when a file that DDP or torch.compile wrote has to be renamed by hand, or `weights check` reports
    otherwise"""
    save_file({prefix + name: value for name, value in vision.items()}, tmp_path / "v.safetensors")
    part = tiny_model().encoders["vision"]
    for parameter in part.parameters():
        parameter.data.zero_()
    report = load_component(part, tmp_path / "v.safetensors")
    assert f"prefix {prefix!r} removed" in str(report)
    assert all(torch.equal(part.state_dict()[name], value) for name, value in vision.items())
    found = compare("encoders.vision", tmp_path / "v.safetensors", part, read_state(tmp_path / "v.safetensors"))
    assert not found.problems and f"prefix {prefix!r} removed" in str(found)


def test_nested_dictionaries_are_opened(tmp_path: Path, vision) -> None:
    """fails when {"state_dict": ...}, {"model": {"model": ...}} or a .ckpt is not taken for a file of weights"""
    named = {f"module.{name}": value for name, value in vision.items()}
    contents = {"a.pth": {"state_dict": named, "epoch": 3}, "b.pth": {"model": {"model": vision}}, "c.ckpt": vision,
                "d.pt": {"epoch": 1, "model": {"state_dict": named}}}  # fmt: skip
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
        assert len(load_component(tiny_model().encoders["vision"], tmp_path / name).loaded) == len(vision)


def test_a_refusal_shows_both_sides(tmp_path: Path, vision) -> None:
    """fails when twenty names of the model fill the table and none of the file is in it"""
    save_file({f"tower.{name}": value for name, value in vision.items()}, tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match="does not fit") as error:
        load_component(tiny_model().encoders["vision"], tmp_path / "v.safetensors")
    message = str(error.value)
    assert "missing" in message and "unexpected" in message and "tower." in message
    assert " more" in message.splitlines()[-1] and len(message.splitlines()) == 23  # title, head, 20 rows, the rest


def test_a_whole_checkpoint_with_a_prefix_loads(tmp_path: Path) -> None:
    """fails when a released whole-model file, saved again from a wrapped model, cannot be loaded"""
    model = tiny_model()
    state = {
        f"module.llama_model.{name.removeprefix('lm.')}": value.clone()
        for name, value in model.language.state_dict().items()
    }
    torch.save({"model": state}, tmp_path / "whole.pth")
    message = str(load_released(model, tmp_path / "whole.pth"))
    assert "prefix 'module.' of all names removed" in message and "language: " in message


def test_convert_removes_the_prefix(tmp_path: Path, vision, capsys) -> None:
    """fails when `weights convert` cannot recognise the component of a file whose names have a prefix"""
    save_component(tiny_model().encoders["vision"], tmp_path / "plain.safetensors")
    save_file({f"module.{name}": value for name, value in vision.items()}, tmp_path / "v.safetensors")
    assert convert.main([str(tmp_path / "v.safetensors"), str(tmp_path / "out.safetensors")]) == 0
    assert set(read_state(tmp_path / "out.safetensors")) == set(read_state(tmp_path / "plain.safetensors"))
    assert "prefix 'module.'" in capsys.readouterr().out


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_language_folder_with_a_prefix_loads(tmp_path: Path, prefix: str) -> None:
    """fails when a folder that was saved from a wrapped language model has to be renamed by hand"""
    sizes = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2, "vocab_size": 32}  # fmt: skip
    whole = CausalLM(CausalLM.Config(architecture=sizes)).lm
    prefixed(whole, tmp_path, prefix)
    language = CausalLM(CausalLM.Config(weights=tmp_path))
    assert f"prefix {prefix!r} of all names removed" in language.load(torch.device("cpu"), torch.float32)
    assert all(torch.equal(language.lm.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_towers_of_folders_with_a_prefix_load(tmp_path: Path) -> None:
    """fails when hf_vision or hf_audio refuses a folder for what a wrapper put before its names"""
    whole = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TOWER, image_size=28, patch_size=14))
    prefixed(whole, tmp_path, "module.")
    (tmp_path / "preprocessor_config.json").write_text('{"size": 28}')
    part = HFVision(HFVision.Config(weights=tmp_path))
    assert "prefix 'module.' of all names removed" in str(part.load_folder())
    name, value = next((name, one) for name, one in whole.state_dict().items() if name.endswith("q_proj.weight"))
    assert torch.equal(part.tower.state_dict()[name], value)


TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def prefixed(model: Any, folder: Path, prefix: str) -> None:
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file({prefix + name: value.clone() for name, value in load_file(file).items()}, file, {"format": "pt"})
