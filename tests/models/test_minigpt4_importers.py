"""Released checkpoints, rebuilt small, as users load them: `run.init_from: file.pth`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.importers.released import is_released_file, start_from
from tests.helpers.models_from_golden import golden
from tests.helpers.tiny_models import AUDIO, PERCEIVER, VISION, batch, tiny_model
from tests.parity.whole_model import VECTORS, filled_model, model_settings

IMAGE_ONLY = {"encoders": {"vision": VISION}, "routes": {"image": {"encoder": "vision", "bridge": "perceiver"}}}
PLAIN_QFORMER = {key: value for key, value in PERCEIVER.items() if key != "queries"}
LLAMA2 = {
    "encoders": {"vision": {**VISION, "class_token": False}},
    "bridges": {"projection": {"name": "linear", "join": 2}},
    "routes": {"image": {"encoder": "vision", "bridge": "projection"}},
}


def vicuna() -> ChatModel:
    return tiny_model(**IMAGE_ONLY, bridges={"perceiver": PLAIN_QFORMER})


def projection(inputs: int, outputs: int = 20) -> dict[str, Tensor]:
    return {"llama_proj.weight": torch.randn(outputs, inputs), "llama_proj.bias": torch.randn(outputs)}


def written(path: Path, tensors: dict[str, Tensor], **more: Any) -> Path:
    """As the reference's runner saves: tensors below `model`, training state next to them."""
    torch.save(
        {"model": tensors, "optimizer": {"state": {}}, "config": {"a": 1}, "scaler": {}, "epoch": 3, **more}, path
    )
    return path


BUFFERS = {
    "Qformer.bert.embeddings.position_ids": torch.arange(512)[None],
    "llama_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5),
}


@pytest.mark.parametrize("extra", [{}, BUFFERS])
def test_a_projection_over_the_qformer(tmp_path: Path, extra: dict[str, Tensor]) -> None:
    """Fails when the projection is not taken, anything else changes, or a buffer is dropped without a note."""
    model, tensors = vicuna(), projection(16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = start_from(model, written(tmp_path / "pretrained_minigpt4.pth", tensors | extra))
    after = model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"bridges.perceiver.output.weight", "bridges.perceiver.output.bias"}
    assert torch.equal(after["bridges.perceiver.output.weight"], tensors["llama_proj.weight"])
    assert "2 tensors" in str(report) and str(report).count("dropped: 1 tensors") == len(extra)


def test_a_projection_over_joined_patches(tmp_path: Path) -> None:
    """Fails when Llama-2's wide projection does not reach the linear bridge, or tokens are not joined neighbours."""
    model, tensors = tiny_model(**LLAMA2), projection(2 * 24)
    start_from(model, written(tmp_path / "llama2.pth", tensors))
    assert model.media_lengths() == {"image": 2}
    images = torch.randn(3, 3, 28, 28)
    with torch.no_grad():
        tokens = model.media_tokens({"image": images})["image"]
        patches = model.encoders["vision"].norm(model.encoders["vision"].vit.forward_features(images))[:, 1:]
    wide = torch.cat([patches[:, 0::2], patches[:, 1::2]], dim=2)  # patches 0 1 | 2 3, row by row
    torch.testing.assert_close(tokens, wide @ tensors["llama_proj.weight"].T + tensors["llama_proj.bias"])
    assert model(batch(model, ("image",))).total.isfinite()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (projection(17), "output.weight"),
        ({"llama_proj.weight": torch.randn(20, 16)}, "missing.*output.bias"),
        ({**projection(16), "llama_proj.scale": torch.ones(1)}, "unexpected.*output.scale"),
        ({**projection(16), "surprise.weight": torch.ones(1)}, "surprise.weight"),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path: Path, tensors: dict[str, Tensor], message: str) -> None:
    """Fails when a wrong size, half a projection or an unknown tensor passes."""
    model = vicuna()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        start_from(model, written(tmp_path / "wrong.pth", tensors))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_a_projection_or_images(tmp_path: Path) -> None:
    """Fails when a projection is loaded into a model without a matching layer."""
    path = written(tmp_path / "p.pth", projection(16))
    audio_only = tiny_model(encoders={"audio": AUDIO}, routes={"audio": {"encoder": "audio", "bridge": "perceiver"}})
    with pytest.raises(ValueError, match="routes only for audio"):
        start_from(audio_only, path)


def released_names(model: ChatModel) -> dict[str, Tensor]:
    """The bridge of a model in the released names, for the tensors that the tiny Q-Former has."""
    names = {}
    for key, value in model.bridges["perceiver"].state_dict().items():
        kind, _, rest = key.partition(".")
        if kind == "queries":
            names[{"visual": "image", "sound": "audio"}[rest] + "_query_tokens"] = value[None]
        elif kind == "adapters":
            names["audio_trans." + rest.removeprefix("sound.")] = value
        elif kind == "output":
            names["llama_proj." + rest] = value
        elif rest.startswith("layernorm."):
            names["Qformer.bert.embeddings.LayerNorm." + rest.removeprefix("layernorm.")] = value
        else:
            inner = rest.replace("attention.attention.", "attention.self.")
            names["Qformer.bert." + inner] = value
    return {key: torch.randn_like(value) for key, value in names.items()}


def test_chatbridge_trained_tensors_through_the_same_door(tmp_path: Path) -> None:
    """Fails when a ChatBridge file of the trained parts needs a different function, or does not fill the whole
    bridge."""
    model = tiny_model()
    tensors = released_names(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = start_from(model, written(tmp_path / "checkpoint_4.pth", tensors | BUFFERS))
    same = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    assert not [name for name in same if name.startswith("bridges.")]
    assert all(name.startswith("bridges.") for name in model.state_dict().keys() - set(same))
    assert torch.equal(model.bridges["perceiver"].queries["sound"], tensors["audio_query_tokens"][0])
    assert "dropped: 1 tensors of the language model" in str(report)


def test_files_and_folders(tmp_path: Path) -> None:
    """Fails when a run folder is taken for a released file, or a missing one for a run."""
    assert is_released_file(tmp_path / "a.pth") and is_released_file("x/b.safetensors")
    (tmp_path / "run.bin").mkdir()
    assert not is_released_file(tmp_path) and not is_released_file(tmp_path / "run.bin")
    with pytest.raises(ValueError, match="no such file"):
        start_from(vicuna(), tmp_path / "a.pth")


def test_features_that_do_not_divide_into_groups() -> None:
    """Fails when joining 3 of 4 patches is not an error with the bridge's path in the YAML."""
    with pytest.raises(ConfigError, match="do not divide into groups of 3") as error:
        tiny_model(**{**LLAMA2, "bridges": {"projection": {"name": "linear", "join": 3}}})
    assert error.value.problems[0].path == "model.bridges.projection"


def test_a_whole_chatbridge_through_the_same_door(reference: Path, tmp_path: Path) -> None:
    """Fails when a file of the whole model does not fill every part, or one with a part missing passes."""
    case = golden(reference, "tiny")
    tensors = {name: value for name, value in case.weights.items() if name not in VECTORS.values()}
    model = ChatModel(parse(ModelConfig, model_settings(case, temporal=False)))
    report = start_from(model, written(tmp_path / "checkpoint_best.pth", tensors))
    parts = ("encoders.vision", "encoders.audio", "bridges.perceiver", "language")
    assert all(f"{part}: " in str(report) for part in parts)
    expected = filled_model(case, temporal=False).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    del tensors["Qformer.bert.encoder.layer.0.attention.self.query.weight"]
    with pytest.raises(ValueError, match=r"(?s)missing.*attention.query.weight"):
        start_from(model, written(tmp_path / "part.pth", tensors))
