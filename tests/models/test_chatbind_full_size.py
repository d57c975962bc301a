"""ChatBind-7B at its real size on the meta device: every released tensor has its place, and none is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from chatbridge.config.schema import parse
from chatbridge.experiment.build import build_model
from chatbridge.experiment.open import open_model_file
from chatbridge.experiment.opened import with_known_files
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import State
from chatbridge.models.config import ModelConfig
from chatbridge.models.importers.chatbind import matched

TOKENS = ("<im_patch>", "<im_start>", "<im_end>")


def chatbind_7b(repository: Path, *options: str) -> ChatModel:
    """The shipped model without its files."""
    opened = open_model_file(repository / "configs" / "models" / "chatbind_vicuna7b.yaml", options)
    settings, _ = with_known_files(opened.node("model"))
    return build_model(parse(ModelConfig, settings, opened.origins, "model"), on_meta=True).model


@pytest.fixture(scope="module")
def model(repository: Path) -> ChatModel:
    return chatbind_7b(repository)


@pytest.fixture(scope="module")
def released(reference: Path) -> State:
    """325 tensors of 2023, 32 of them buffers, on the meta device."""
    content = json.loads((reference / "chatbind_7b.json").read_text())
    state = {name: torch.empty(shape, dtype=torch.float16, device="meta") for name, shape in content["tensors"].items()}
    assert len(state) == 325 and sum(value.numel() for value in state.values()) == 6_742_646_784 + 32 * 64
    return state


def test_the_vocabulary(model: ChatModel) -> None:
    """Fails when embedding and head do not have 32,004 rows together with the added tokens, or an id moves."""
    assert model.language.num_embeddings == 32001 and model.config.added_tokens == TOKENS
    assert model.added_tokens is not None and model.added_tokens.first == 32001
    assert tuple(model.state_dict()["bridges.projector.output.weight"].shape) == (4096, 1024)


def test_the_merged_model(model: ChatModel, released: State, tmp_path: Path) -> None:
    """Fails when a tensor of the merged model is left over or missing, or a buffer is taken for one."""
    found = matched(model, released, tmp_path / "pytorch_model.bin")
    own = {name: value for name, value in model.state_dict().items() if name.startswith(("language.", "added_tokens."))}
    assert found.taken.keys() == own.keys() and len(own) == 291 + 6
    assert all(found.taken[name].shape == value.shape for name, value in own.items())
    values = sum(value.numel() for value in (*found.taken.values(), *found.tensors.values()))
    assert values == 6_742_646_784
    assert "dropped: 32 tensors of the language model (buffers that follow from the sizes)" in found.lines


def test_version_v1_keeps_the_padding_row(model: ChatModel, released: State, tmp_path: Path) -> None:
    """Fails when 32,003 rows are read as if they had [PAD]."""
    rows = {"model.embed_tokens.weight", "lm_head.weight"}
    shorter = {name: value[:32003] if name in rows else value for name, value in released.items()}
    found = matched(model, shorter, tmp_path / "pytorch_model.bin")
    assert any("kept: rows 32000 to 32000 of language" in line for line in found.lines)
    with pytest.raises(ValueError, match="no row of <im_start>, <im_end>"):
        matched(model, {k: v[:32002] if k in rows else v for k, v in released.items()}, tmp_path / "pytorch_model.bin")


def test_the_projector_file(model: ChatModel, repository: Path, reference: Path, tmp_path: Path) -> None:
    """Fails when the published file of stage 1 does not fit, or fits a model of 13B or another encoder."""
    content = json.loads((reference / "chatbind_7b.json").read_text())["stage1_projector_file"]["tensors"]
    state = {name: torch.empty(shape, device="meta") for name, shape in content.items()}
    found = matched(model, state, tmp_path / "mm_projector.bin")
    assert set(found.taken) == {"added_tokens.embedding.<im_start>", "added_tokens.embedding.<im_end>"}
    wider = chatbind_7b(repository, "model.language.architecture.hidden_size=5120")
    with pytest.raises(ValueError, match="1024 -> 4096 channels, bridges.projector is 1024 -> 5120"):
        matched(wider, state, tmp_path / "mm_projector.bin")
    clip = {**state, "model.mm_projector.weight": torch.empty(4096, 1408, device="meta")}
    with pytest.raises(ValueError, match="1408 -> 4096 channels, bridges.projector is 1024 -> 4096"):
        matched(model, clip, tmp_path / "mm_projector.bin")
