"""Contradictions between adapters, quantized weights and the optimizer, told before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.experiment.validate_adapters import adapter_run_problems
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.runners.config import RunConfig
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
