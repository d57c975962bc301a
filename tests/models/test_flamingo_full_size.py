"""OpenFlamingo-9B and the adapters of Multimodal-GPT at their real size on the meta device: no tensor is left over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.cli.export_flamingo import _released, _released_layer
from chatbridge.cli.export_source import Source
from chatbridge.config.schema import parse
from chatbridge.experiment.build import build_model
from chatbridge.experiment.open import open_model_file
from chatbridge.experiment.opened import with_known_files
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import State
from chatbridge.models.component_tensors import under_base_names
from chatbridge.models.config import ModelConfig
from chatbridge.models.importers.flamingo import matched
from chatbridge.models.importers.flamingo_names import EMBEDDING

LLAMA_7B = 6_738_415_616
CLIP_L14 = 303_179_776 - 2048  # transformers' CLIPVisionModel without the norm of the pooled token


@pytest.fixture(scope="module")
def model(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    """The shipped model without its files, over adapters; model.weights names a file that nothing reads."""
    opened = open_model_file(repository / "configs" / "models" / "mmgpt_llama7b.yaml", ())
    settings, _ = with_known_files(opened.node("model"))
    place = tmp_path_factory.mktemp("weights") / "checkpoint.pt"
    place.write_bytes(b"")
    settings["weights"] = str(place)
    return build_model(parse(ModelConfig, settings, opened.origins, "model"), on_meta=True).model


def manifest(reference: Path, name: str) -> dict[str, Any]:
    return json.loads((reference / f"{name}.json").read_text())


def on_meta(tensors: dict[str, list[int]]) -> State:
    return {name: torch.empty(shape, device="meta") for name, shape in tensors.items()}


def test_openflamingo_9b(model: ChatModel, reference: Path, tmp_path: Path) -> None:
    """Fails when a tensor of the public file has no place, a part of the model is left empty, or a size differs."""
    content = manifest(reference, "openflamingo_9b")
    state, counts = on_meta(content["tensors"]), content["counts"]
    assert len(state) == counts["unique_trainable_tensors"] == 158
    assert sum(value.numel() for value in state.values()) == counts["trainable_parameters"] == 1_309_919_248
    twice = dict(state)
    for name, value in state.items():  # the public file has both spellings, and buffers
        if "gated_cross_attn_layer." in name:
            number, inner = name.removeprefix("lang_encoder.model.layers.").split(".gated_cross_attn_layer.")
            twice[f"lang_encoder.gated_cross_attn_layers.{number}.{inner}"] = value
    buffer = "lang_encoder.model.layers.{}.decoder_layer.self_attn.rotary_emb.inv_freq"
    twice |= {buffer.format(number): torch.empty(64, device="meta") for number in range(32)}
    assert len(twice) == counts["keys_in_v1_file"] == 278
    assert set(twice) - set(state) == set(content["v1_file_extra_keys"])
    found = matched(model, twice, tmp_path / "checkpoint.pt", is_base=True)
    own = under_base_names(model, model.state_dict())
    parts = ("bridges.", "fusion.", "added_tokens.embedding.", "language.lm.model.embed_tokens.")
    wanted = {name for name in own if name.startswith(parts)}
    assert set(under_base_names(model, found.taken)) == wanted and len(wanted) == 158 + 3  # a row for each token
    assert sum(value.numel() for value in found.taken.values()) == counts["trainable_parameters"]
    assert found.taken["added_tokens.embedding.<image>"].shape == (4096,)
    assert "dropped: 32 tensors of the language model (buffers that follow from the sizes)" in found.lines


def test_the_names_of_an_export(model: ChatModel, reference: Path) -> None:
    """Fails when an export of the shipped model has another name than the public files."""
    source = Source(model, {}, {}, {}, None)
    own = under_base_names(model, model.state_dict())
    base = {_released(source, name) for name in own if name.startswith(("bridges.", "fusion."))}
    assert base | {f"lang_encoder.{EMBEDDING}"} == set(manifest(reference, "openflamingo_9b")["tensors"])
    layers = {name.partition(".lora_")[0] for name in model.state_dict() if ".lora_" in name}
    released = {f"lang_encoder.base_model.model.{_released_layer(name)}" for name in layers}
    names = {f"{name}.lora_{matrix}.default.weight" for name in released for matrix in "AB"}
    assert names == set(manifest(reference, "mmgpt_lora_v0")["tensors"])


@pytest.mark.parametrize("adapter", ["default.", ""])
def test_the_adapters(model: ChatModel, reference: Path, tmp_path: Path, adapter: str) -> None:
    """Fails when the published adapters are not exactly those of the shipped model, in either spelling of peft."""
    content = manifest(reference, "mmgpt_lora_v0")
    state = on_meta({name.replace("default.", adapter): shape for name, shape in content["tensors"].items()})
    found = matched(model, state, tmp_path / "mmgpt-lora-v0-release.pt")
    own = {name for name in model.state_dict() if ".lora_" in name}
    assert set(found.taken) == own and len(own) == content["counts"]["tensors"] == 336
    values = sum(value.numel() for value in found.taken.values())
    assert values == content["counts"]["trainable_parameters"] == 23_461_888
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trained) == 23_461_888


def test_beside_clip_and_llama(model: ChatModel) -> None:
    """Fails when the parts beside OpenFlamingo's have other sizes than CLIP ViT-L/14 and LLaMA-7B."""
    language = under_base_names(model, {n: v for n, v in model.state_dict().items() if n.startswith("language.")})
    own = [value.numel() for name, value in language.items() if not name.startswith("adapters.")]
    assert sum(own) == LLAMA_7B
    assert sum(parameter.numel() for parameter in model.encoders.parameters()) == CLIP_L14
    assert model.language.num_embeddings == 32000 and model.media_lengths() == {"image": 1}
