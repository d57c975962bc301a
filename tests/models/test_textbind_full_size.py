"""TextBind at its real size on the meta device: every released tensor has its place, and none is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from chatbridge.config.schema import parse
from chatbridge.experiment.build import build_model
from chatbridge.experiment.open import open_model_file
from chatbridge.experiment.opened import with_known_files
from chatbridge.models.bridges._qformer_checkpoint import to_released
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import State
from chatbridge.models.config import ModelConfig
from chatbridge.models.importers.textbind import matched
from chatbridge.models.loading import fitted, mismatches

LLAMA_7B = 6_738_415_616


@pytest.fixture(scope="module")
def model(repository: Path) -> ChatModel:
    """The shipped model without its files."""
    opened = open_model_file(repository / "configs" / "models" / "textbind_llama2_7b.yaml")
    settings, _ = with_known_files(opened.node("model"))
    return build_model(parse(ModelConfig, settings, opened.origins, "model"), on_meta=True).model


@pytest.fixture(scope="module")
def released() -> State:
    """second_stage_model.pt: names and shapes of the classes that the reference builds."""
    with torch.device("meta"):
        qformer = Blip2QFormerModel(Blip2QFormerConfig()).state_dict()
        lm = LlamaForCausalLM(LlamaConfig(vocab_size=32003, rms_norm_eps=1e-5)).state_dict()
        tensors = {"query_tokens": torch.empty(1, 32, 768)}
        tensors |= {f"qformer.{name}": value for name, value in qformer.items()}
        tensors |= {"qformer_projection.weight": torch.empty(4096, 768), "qformer_projection.bias": torch.empty(4096)}
    return tensors | {f"language_model.{name}": value for name, value in lm.items()}


def test_the_vision_model(model: ChatModel) -> None:
    """Fails when BLIP-2's 39 blocks of the hub are not those of the encoder, name by name and shape by shape."""
    with torch.device("meta"):
        theirs = Blip2VisionModel(Blip2VisionConfig()).state_dict()
    vision = model.encoders["vision"]
    assert len(theirs) == 39 * 12 + 4 + 2 and len(vision.vit.blocks) == 39 and vision.config.eps == 1e-5
    state, notes = fitted(vision, {f"vision_model.{name}": value for name, value in theirs.items()})
    assert mismatches(vision.state_dict(), state) == [] and not notes.dropped and not notes.kept
    assert sum(value.numel() for value in state.values()) == 985_894_528 + 2 * 1408  # with ln_vision


def test_the_whole_file(model: ChatModel, released: State, tmp_path: Path) -> None:
    """Fails when a tensor of the released file is left over or missing, or a count differs."""
    layers = {name: value for name, value in released.items() if name.startswith("qformer.")}
    assert len(layers) == 254 and sum(value.numel() for value in layers.values()) == 105_137_664
    found = matched(model, released, tmp_path / "second_stage_model.pt")
    own = model.state_dict()
    state, notes = fitted(model.bridges["qformer"], found.tensors)
    assert mismatches(model.bridges["qformer"].state_dict(), state) == [] and not notes.kept and not notes.dropped
    assert found.taken.keys() == {name for name in own if name.startswith(("language.", "added_tokens."))}
    assert all(found.taken[name].shape == own[name].shape for name in found.taken)
    values = sum(value.numel() for value in (*found.taken.values(), *state.values()))
    assert values == LLAMA_7B + 2 * 3 * 4096 + 108_312_064 == 6_846_752_256
    assert model.language.num_embeddings == 32000 and model.media_lengths() == {"image": 32}


def test_the_names_of_an_export(model: ChatModel, released: State) -> None:
    """Fails when an export of the shipped model has another name or shape than the released file."""
    theirs = to_released(model.bridges["qformer"].state_dict(), "huggingface")
    wanted = {name: value for name, value in released.items() if not name.startswith("language_model.")}
    assert {name: value.shape for name, value in theirs.items()} == {n: v.shape for n, v in wanted.items()}


def test_llama_of_another_vocabulary(model: ChatModel, released: State, tmp_path: Path) -> None:
    """Fails when a file over Vicuna v0 (32,001 rows) is taken for one over Llama-2."""
    rows = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
    other = released | {name: torch.empty(32004, 4096, device="meta") for name in rows}
    with pytest.raises(ValueError, match="has 32004 rows, expected 32003"):
        matched(model, other, tmp_path / "second_stage_model.pt")
