"""The models of configs/models at real size and without files: names, shapes and counts of the released ones."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chatbridge.common.errors import ConfigError
from chatbridge.config.merge import load
from chatbridge.config.schema import parse
from chatbridge.experiment.build import build_model
from chatbridge.experiment.open import open_model_file
from chatbridge.experiment.opened import with_known_files
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import Component, LoadNotes, State
from chatbridge.models.config import ModelConfig
from chatbridge.models.importers.chatbridge import _part, split
from chatbridge.models.importers.minigpt4 import image_bridge, is_projection_only
from chatbridge.models.loading import mismatches
from chatbridge.models.trainable import trainable_report

MODELS = Path(__file__).parents[2] / "configs" / "models"
SIZES = {  # name -> (trainable tensors, trainable parameters)
    "chatbridge_vicuna13b": (260, 110_206_848),
    "chatbridge_vicuna7b": (260, 109_419_392),
    "minigpt4_vicuna13b": (2, 768 * 5120 + 5120),
    "minigpt4_vicuna7b": (2, 768 * 4096 + 4096),
    "minigpt4_llama2": (2, 5632 * 4096 + 4096),
    "mmgpt_llama7b": (336, 23_461_888),
    "textbind_llama2_7b": (257, 108_312_064),
}


@cache
def model(name: str) -> ChatModel:
    """Built once; the meta device holds no values that a test could change."""
    opened = open_model_file(MODELS / f"{name}.yaml")
    settings, _ = with_known_files(opened.node("model"))
    return build_model(parse(ModelConfig, settings, opened.origins, "model"), on_meta=True).model


def manifest(reference: Path, name: str, key: str = "tensors") -> State:
    """Released names with tensors of their shapes, all of one number in memory."""
    content = json.loads((reference / f"{name}.json").read_text())
    return {name: torch.zeros(()).expand(shape) for name, shape in content[key].items()}


def converted(part: Component, state: State) -> tuple[dict[str, Tensor], LoadNotes]:
    """What the loader makes of released tensors, as `fill` does before it copies."""
    notes = LoadNotes()
    return part.fit(part.convert(state), notes), notes


@pytest.mark.parametrize("name", SIZES)
def test_what_trains(name: str) -> None:
    """Fails when a shipped model does not build without its files, or its number of trainable parameters changes."""
    built = model(name)
    report = trainable_report(built)
    assert all(parameter.is_meta for parameter in built.parameters())
    assert (len(report.names), report.num_trainable) == SIZES[name]
    slots = {"minigpt4_llama2": 64, "mmgpt_llama7b": 1}.get(name, 32)
    assert set(built.media_lengths().values()) == {slots}


def test_eva_vit_g(reference: Path) -> None:
    """Fails when EVA-ViT-g is not the released one key by key, surplus tensors of its file included."""
    vision = model("chatbridge_vicuna13b").encoders["vision"]
    released = manifest(reference, "eva_vit_g")
    assert len(released) == 511 and sum(value.numel() for value in released.values()) == 985_894_528
    surplus = {f"blocks.39.{key}": torch.empty(1, device="meta") for key in ("norm1.weight", "mlp.fc2.bias")}
    state, notes = converted(vision, released | surplus)
    own = {key: value for key, value in vision.state_dict().items() if not key.startswith("norm.")}
    assert mismatches(own, state) == [] and state.keys() == own.keys()
    assert notes.dropped.keys() == {f"vit.{key}" for key in surplus} and notes.reshaped == {}
    assert sum(parameter.numel() for key, parameter in vision.vit.named_parameters()) == 985_894_528


def test_blip2_file(reference: Path) -> None:
    """Fails when the Q-Former's file does not fill queries and layers, or its norm does not reach the encoder."""
    built = model("chatbridge_vicuna13b")
    released = manifest(reference, "blip2_qformer_flant5xxl") | {
        "t5_proj.weight": torch.empty(2048, 768, device="meta")
    }
    bridge = built.bridges["perceiver"]
    state, notes = converted(bridge, dict(released))
    assert mismatches(bridge.state_dict(), state, notes.kept) == []
    assert set(notes.kept) == {"adapters.sound.weight", "adapters.sound.bias", "output.weight", "output.bias"}
    assert set(notes.reshaped) == {"queries.sound"}  # the audio queries are initialised as a copy of the visual ones
    assert "t5_proj.weight" in notes.dropped and "ln_vision.weight" in notes.dropped
    norm, _ = converted(built.encoders["vision"], dict(released))
    assert {key: tuple(norm[key].shape) for key in ("norm.weight", "norm.bias")} == dict.fromkeys(
        ("norm.weight", "norm.bias"), (1408,)
    )


@pytest.mark.parametrize("trained_only", [False, True])
def test_chatbridge_checkpoint(reference: Path, trained_only: bool) -> None:
    """Fails when a tensor of the released checkpoint is unexpected, or one of ours is missing in it."""
    built = model("chatbridge_vicuna13b")
    released = manifest(reference, "chatbridge_ckpt")
    if trained_only:
        frozen = ("visual_encoder.", "ln_vision.", "audio_encoder.", "ln_audio.", "llama_model.")
        released = {key: value for key, value in released.items() if not key.startswith(frozen)}
        assert sum(key.endswith("position_ids") for key in released) + 260 == len(released)
    sides = split(released)
    assert set(sides) == ({"bridge"} if trained_only else {"image", "audio", "bridge", "language"})
    for role, tensors in sides.items():
        _, part = _part(built, role)
        assert part is not None
        state, notes = converted(part, tensors)
        assert mismatches(part.state_dict(), state, notes.kept) == [], role
        assert set(notes.kept) == set(), role
        assert all("buffer" in reason for reason in notes.dropped.values()), notes.dropped


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("minigpt4_vicuna13b", "tensors"),
        ("minigpt4_vicuna7b", "tensors_7B"),
        ("minigpt4_llama2", "tensors_llama2_7B"),
    ],
)
def test_minigpt4_projection(reference: Path, name: str, key: str) -> None:
    """Fails when a published projection does not fit its model exactly, or fits another one."""
    released = manifest(reference, "minigpt4_ckpt", key)
    assert is_projection_only(released)
    for other in ("minigpt4_vicuna13b", "minigpt4_vicuna7b", "minigpt4_llama2"):
        _, bridge = image_bridge(model(other))
        state, _ = converted(bridge, dict(released))
        wanted = {key: value for key, value in bridge.state_dict().items() if key.startswith("output.")}
        assert (mismatches(wanted, state) == []) == (other == name)


def test_beats_file(reference: Path) -> None:
    """Fails when BEATs is not the released one key by key."""
    released = manifest(reference, "beats_iter3_as2m")
    audio = model("chatbridge_vicuna13b").encoders["audio"]
    state, notes = converted(audio, released)
    assert mismatches(audio.state_dict(), state, notes.kept) == []
    assert set(notes.kept) <= {"norm.weight", "norm.bias"}


@pytest.mark.parametrize("name", SIZES)
def test_placeholders_say_what_to_put_there(name: str) -> None:
    """Fails when a ??? that is left does not name its key, the file and where to get it."""
    mapping, origins = load(MODELS / f"{name}.yaml")
    with pytest.raises(ConfigError) as error:
        parse(ModelConfig, mapping["model"], origins, "model")
    found = {problem.path: str(problem) for problem in error.value.problems}
    towers = {"mmgpt_llama7b": "openai/clip-vit-large-patch14", "textbind_llama2_7b": "Salesforce/blip2-flan-t5-xxl"}
    tower = towers.get(name, "eva_vit_g.pth")
    wanted = {"model.encoders.vision.weights": tower, "model.language.weights": "Hugging Face form"}
    if name.startswith("chatbridge"):
        wanted["model.encoders.audio.weights"] = "BEATs_iter3_plus_AS2M.pt"
    if "llama2" not in name and not name.startswith("mmgpt"):
        wanted["model.bridges.perceiver.weights"] = "blip2_pretrained_flant5xxl.pth"
    text = str(error.value)
    assert set(wanted) <= set(found)
    assert all(words in text for words in wanted.values())


def language_folder(folder: Path, **sizes: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    return folder


def test_a_model_of_another_size_is_an_error(tmp_path: Path) -> None:
    """Fails when a 7B folder is taken where the configuration is for 13B; another vocabulary is no mistake."""
    from chatbridge.models.language.causal_lm import CausalLM

    sizes = {"hidden_size": 5120, "num_hidden_layers": 40, "vocab_size": 32000}
    good = language_folder(tmp_path / "good", **{**sizes, "vocab_size": 32001})
    bad = language_folder(tmp_path / "bad", **{**sizes, "hidden_size": 4096})
    assert list(CausalLM.Config(weights=good, architecture=sizes).problems()) == []
    (problem,) = CausalLM.Config(weights=bad, architecture=sizes).problems()
    assert "hidden_size 4096" in problem.message and "5120" in problem.message
