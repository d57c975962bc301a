"""The setting `attention` reaches the layers of towers and Q-Formers, and is refused where it cannot run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.experiment.validate_levers import check_devices
from chatbridge.models.config import ModelConfig
from chatbridge.models.encoders.hf_vision import HFVision
from chatbridge.runners.config import RunConfig
from tests.helpers.tiny_models import LANGUAGE, PERCEIVER, batch, model_mapping, tiny_model
from tests.helpers.tiny_towers import CLAP, CLIP
from tests.helpers.tolerances import FP32

RUN = RunConfig(output_dir=Path("x"), max_steps=1)
ROUTES = {"image": {"encoder": "vision", "bridge": "perceiver"}}


def parts(attention: str | None) -> dict[str, Any]:
    own = {} if attention is None else {"attention": attention}
    return {"encoders": {"vision": {**CLIP, **own}}, "bridges": {"perceiver": {**PERCEIVER, **own}}, "routes": ROUTES,
            "language": {**LANGUAGE, **own}}  # fmt: skip


def test_implementations_reach_every_layer_and_agree() -> None:
    """Fails when the setting is dropped on the way to transformers, or changes what is computed."""
    losses = {}
    for attention in ("eager", "sdpa", None):
        model = tiny_model(**parts(attention)).eval()
        found = [model.encoders["vision"].tower, model.bridges["perceiver"].qformer, model.language.lm]
        used = {getattr(one.config, "_attn_implementation") for one in found}  # noqa: B009
        assert used == {attention or "sdpa"}
        losses[attention] = float(model(batch(model, ("image", "image"))).total.detach())
    assert losses["eager"] == pytest.approx(losses["sdpa"], rel=FP32)
    assert losses["sdpa"] == losses[None]


def test_a_folder_is_read_with_the_implementation(tmp_path: Path) -> None:
    """Fails when reading the weights replaces the tower by one with the default attention."""
    parse(HFVision.Config, {key: value for key, value in CLIP.items() if key != "name"})
    tower = tiny_model(**parts(None)).encoders["vision"].tower
    tower.save_pretrained(tmp_path)
    encoder = HFVision(HFVision.Config(weights=tmp_path, image_size=28, attention="eager"))
    encoder.load_folder()
    assert encoder.tower.config._attn_implementation == "eager"


def test_what_a_family_lacks_is_reported_with_what_it_has() -> None:
    """Fails when transformers refuses an implementation only while the model is built, or one problem hides others."""
    encoders = {"vision": {**CLIP, "attention": "flash_attention_2"}, "audio": {**CLAP, "attention": "sdpa"}}
    bridges = {"perceiver": {**PERCEIVER, "attention": "flash_attention_2"}}
    routes = {**ROUTES, "audio": {"encoder": "audio", "bridge": "perceiver"}}
    with pytest.raises(ConfigError) as error:
        parse(ModelConfig, model_mapping(encoders=encoders, bridges=bridges, routes=routes, language=LANGUAGE))
    text = str(error.value)
    assert "encoders.vision.attention" in text and "needs the package flash_attn" in text and "pip install" in text
    assert "ClapAudioModel has no sdpa" in text and "allowed: eager" in text
    assert "Blip2QFormerModel has no flash_attention_2" in text and "eager, sdpa, flex_attention" in text


def test_training_on_a_cpu_refuses_what_runs_on_gpus_only() -> None:
    """Fails when flex_attention is refused in a frozen encoder, which needs no backward pass, or accepted elsewhere."""
    config = parse(ModelConfig, {**model_mapping(**parts("flex_attention")), "trainable": ["bridges.*"]})
    with pytest.raises(ConfigError) as error:
        check_devices(config, RUN, torch.device("cpu"))
    assert [one.path for one in error.value.problems] == [
        "model.bridges.perceiver.attention", "model.language.attention"
    ]  # fmt: skip
    check_devices(config, RUN, torch.device("cuda"))
