"""Bridge only, LoRA, QLoRA, the last layers, everything: what moves, what a checkpoint has, and a resume to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatbridge.config.schema import parse
from chatbridge.experiment.build import build_model
from chatbridge.models.config import ModelConfig
from chatbridge.models.loading import read_state
from tests.helpers.adapter_runs import AdapterWorld
from tests.helpers.train_runs import LAST, losses, run

ADAPTERS = [{"targets": ["language.*_proj"], "rank": 2, "dropout": 0.1}]
MODES: dict[str, dict[str, Any]] = {
    "bridge": {"trainable": ["bridges.*"]},
    "lora": {"trainable": [], "adapters": ADAPTERS},
    "qlora": {"trainable": ["bridges.*"], "adapters": ADAPTERS, "language": {"load_in_4bit": True}},
    "qlora_8bit": {"trainable": ["bridges.*"], "adapters": ADAPTERS, "language": {"load_in_8bit": True}},
    "last_layers": {"trainable": ["bridges.*", "language.lm.model.layers.1.*", "language.lm.model.norm.*"]},
    "full": {"trainable": ["bridges.*", "language.*"]},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AdapterWorld:
    return AdapterWorld(tmp_path_factory.mktemp("world"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_exactly_the_listed_tensors_train_and_a_resume_is_equal(world: AdapterWorld, tmp_path: Path, mode: str):
    """fails when a mode trains a tensor too many or too few, when its frozen weights move (the run then stops), or
    when a stop changes a bit of the weights or of the moments"""
    if "adapters" in MODES[mode]:
        pytest.importorskip("peft")
    if "language" in MODES[mode]:
        pytest.importorskip("bitsandbytes")
    for name in ("through", "stopped"):
        config = world.experiment(tmp_path / name)
        model = {**world.model(dropout=0.2), **MODES[mode]}
        config["model"] = {**model, "language": {**world.model()["language"], **MODES[mode].get("language", {})}}
        if name == "stopped":
            assert run(config, tmp_path, "run.stop_at=2") == 0
        assert run(config, tmp_path) == 0
    listed = set(build_model(parse(ModelConfig, config["model"]), on_meta=True).trainable.names)
    before = read_state(tmp_path / "stopped/checkpoints/step_000002/model.safetensors")
    after = read_state(tmp_path / "stopped" / LAST / "model.safetensors")
    assert set(before) == set(after) == listed
    still = {name for name in listed if (before[name] == after[name]).all()}
    assert still <= {name for name in listed if name.endswith("key.bias")}  # it cancels in the softmax
    assert losses(tmp_path / "through") == losses(tmp_path / "stopped")
    for file in ("model.safetensors", "optimizer.pt"):
        sides = [(tmp_path / name / LAST / file).read_bytes() for name in ("through", "stopped")]
        assert sides[0] == sides[1], file
