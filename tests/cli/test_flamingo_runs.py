"""Trainings over released weights: model.weights is read each time, and the checkpoints hold the adapters alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.models.loading import load_weights, read_state, save_component
from chatbridge.serve.load import load_model
from tests.helpers.flamingo_release import FUSION, LORA, adapters, flamingo, flamingo_settings, random_values, released
from tests.helpers.mini_world import MiniWorld
from tests.helpers.tiny_models import VISION
from tests.helpers.train_runs import LAST, losses, run, run_processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A training over checkpoint.pt that starts from lora.pt; its folder is `folder`."""
    folder = tmp_path_factory.mktemp("world")
    world = MiniWorld(folder)
    vision = {**VISION, "weights": str(folder / "vision.safetensors")}
    save_component(flamingo().encoders["vision"], folder / "vision.safetensors")
    language = {"name": "causal_lm", "weights": str(folder / "lm"), "template": "vicuna_v0"}
    node = {**flamingo_settings(), "encoders": {"vision": vision}, "language": language}
    node |= {"fusion": {**FUSION, "every": 1}, "adapters": [LORA]}
    model = flamingo(**node)
    load_weights(model)
    values = {name: 0.3 * value for name, value in random_values(model).items()}
    base = {name: value for name, value in released(values).items() if "inv_freq" not in name}
    torch.save(base, folder / "checkpoint.pt")
    torch.save({name: value + 0.1 for name, value in base.items()}, folder / "other.pt")
    torch.save(adapters(values), folder / "lora.pt")
    node["weights"] = str(folder / "checkpoint.pt")
    settings = {"max_steps": 4, "micro_batch": 4, "log_every": 1, "save_every": 2, "optimizer": {"lr": 0.01}}
    settings |= {
        "schedule": {"warmup_steps": 1},
        "init_from": str(folder / "lora.pt"),
        "output_dir": str(folder / "run"),
    }
    sources = {"image_qa": world.source("questions", "ti-qa")}
    return {"model": node, "data": {"sources": sources, "max_tokens": 200, "num_workers": 0}, "run": settings}


@pytest.fixture(scope="module")
def trained(config: dict[str, Any]) -> Path:
    folder = Path(config["run"]["output_dir"])
    assert run(config, folder.parent) == 0
    return folder


def test_the_base_is_in_no_checkpoint(config: dict[str, Any], trained: Path) -> None:
    """Fails when the frozen base goes into the checkpoints, a run does not read it again, or another one passes."""
    held = read_state(trained / LAST / "model.safetensors")
    assert len(held) == 36 and all(".lora_" in name for name in held)
    base = read_state(Path(config["model"]["weights"]))
    model: Any = load_model(trained).model
    state = model.state_dict()
    assert torch.equal(state["bridges.resampler.latents"], base["perceiver.latents"])
    assert torch.equal(state["added_tokens.embedding.<PAD>"], base["lang_encoder.model.embed_tokens.weight"][-1])
    assert all(torch.equal(state[name], value) for name, value in held.items())
    before = adapters(state)
    assert any(not torch.equal(value, before[name]) for name, value in read_state(trained.parent / "lora.pt").items())
    with pytest.raises(ConfigError, match="fusion: fingerprint"):
        load_model(trained, options=[f"model.weights={trained.parent / 'other.pt'}"])


def test_spread_over_two_ranks(config: dict[str, Any], trained: Path, tmp_path: Path) -> None:
    """Fails when sharded ranks start from other values than one process, or cannot read the base."""
    run_config = {**config["run"], "output_dir": str(tmp_path / "shard"), "micro_batch": 2, "parallel": "shard"}
    result = run_processes({**config, "run": run_config}, tmp_path, num_processes=2)
    assert result.returncode == 0, result.stderr[-2000:]
    assert losses(tmp_path / "shard") == pytest.approx(losses(trained), abs=1e-4)
