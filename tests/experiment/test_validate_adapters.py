"""Contradictions between adapters, quantized weights and the optimizer, told before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.experiment.build import build_model
from chatbridge.experiment.validate_adapters import adapter_run_problems
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.runners.config import RunConfig
from chatbridge.runners.optimizer_groups import GroupConfig
from tests.helpers.mini_world import write_language_model
from tests.helpers.tiny_models import LANGUAGE, model_mapping


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    write_language_model(folder)
    return folder


def problems(model: dict[str, Any], **optimizer: Any) -> list[str]:
    run = parse(RunConfig, {"output_dir": "runs/x", "max_steps": 3, "device": "cpu", "optimizer": optimizer})
    return [problem.path for problem in adapter_run_problems(parse(ModelConfig, model), run)]


@pytest.mark.parametrize("bits", [4, 8])
def test_full_training_of_quantized_weights(folder: Path, bits: int):
    """fails when weights in 8 or 4 bits may be named in trainable, or adapters beside them may not;
    or when DoRA beside 8 bits ends in an error of bitsandbytes"""
    language = {"name": "causal_lm", "weights": str(folder), f"load_in_{bits}bit": True}
    entry = {"targets": ["language.*_proj"]}
    assert problems(model_mapping(language=language, adapters=[entry], trainable=["*perceiver*"])) == []
    found = problems(model_mapping(language=language, adapters=[entry], trainable=["bridges.*", "language.*norm*"]))
    assert found == [f"model.language.load_in_{bits}bit"]
    dora = {"targets": ["language.*_proj"], "use_dora": True}
    found = problems(model_mapping(language=language, adapters=[dora], trainable=["bridges.*"]))
    assert found == (["model.adapters[0].use_dora"] if bits == 8 else [])


def test_both_quantizations_or_none_to_quantize(folder: Path):
    """fails when two storages are set at once, or random weights claim to be in 4 bits"""
    both = {"name": "causal_lm", "weights": str(folder), "load_in_8bit": True, "load_in_4bit": True}
    with pytest.raises(ConfigError, match=r"language\.load_in_4bit\s+is set beside load_in_8bit"):
        parse(ModelConfig, model_mapping(language=both))
    random = ChatModel(parse(ModelConfig, model_mapping(language={**LANGUAGE, "load_in_4bit": True})))
    with pytest.raises(ValueError, match="random ones are not quantized"):
        random.language.load(torch.device("cpu"), torch.float32)


def test_an_optimizer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    """fails when adamw_8bit without bitsandbytes is found after the weights are read"""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert problems(model_mapping(trainable=["bridges.*"]), kind="adamw_8bit") == ["run.optimizer.kind"]
    assert problems(model_mapping(trainable=["bridges.*"])) == []


def test_patterns_of_the_model_and_of_the_optimizer_are_told_together():
    """fails when a mistake in adapters, trainable or groups hides the others, or a group is blamed for one of them"""
    entries = [
        {"targets": ["language.*q_proj", "language.*v_porj"], "rank": 10**9},
        {"targets": ["language.*q_proj", "encoders.vision.*qkv"]},
        {"targets": ["bridges.*nowhere"]},
    ]
    model = parse(ModelConfig, model_mapping(adapters=entries, trainable=["bridges.*", "encoders.vision.nrom*"]))
    groups = [
        GroupConfig(match=("bridges.*", "audio.*"), lr_scale=0.1),
        GroupConfig(match=("*.queries*", "language.*lora_B*"), weight_decay=0.0),
        GroupConfig(match=("encoders.vision.norm*", "*v_proj.lora_A*"), lr_scale=0.5),
    ]
    with pytest.raises(ConfigError) as error:
        build_model(model, True, groups)
    assert {problem.path for problem in error.value.problems} == {
        "model.trainable[1]", "model.adapters[0].targets[1]", "model.adapters[0].rank", "model.adapters[1].targets",
        "model.adapters[2].targets[0]", "run.optimizer.groups[0].match[1]", "run.optimizer.groups[1].match",
    }  # fmt: skip
    mended = parse(ModelConfig, model_mapping(trainable=["bridges.*"]))
    with pytest.raises(ConfigError) as error:
        build_model(mended, True, groups[1:])
    assert [problem.path for problem in error.value.problems] == [
        "run.optimizer.groups[0].match[1]", "run.optimizer.groups[1].match[0]", "run.optimizer.groups[1].match[1]"
    ]  # fmt: skip
