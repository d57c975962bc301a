"""BLIP-2 in the names of transformers: its classes are the oracle for our encoder and bridge with converted weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import BlipImageProcessor

from chatbridge.cli.weights.file_check import placeholders
from chatbridge.common.types import Features
from chatbridge.config.schema import parse
from chatbridge.models.bridges._qformer_checkpoint import rename_released, to_released
from chatbridge.models.bridges.qformer import QFormer
from chatbridge.models.encoders._blip2_vision_names import to_huggingface, to_lavis
from chatbridge.models.encoders.eva_vit import EvaViT
from chatbridge.models.loading import load_component
from tests.helpers.textbind_release import BLIP2_VISION, Blip2, stage_2_file, tiny_blip2
from tests.helpers.tiny_models import model_mapping

VISION = {**BLIP2_VISION, "eps": 1e-5}
QFORMER = {"num_queries": 3, "num_layers": 2, "width": 16, "heads": 2, "cross_every": 2}


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Blip2:
    return tiny_blip2(tmp_path_factory.mktemp("blip2") / "blip2-flan-t5-tiny")


def vision(**changes: Any) -> EvaViT:
    return EvaViT(EvaViT.Config(**{**VISION, **changes})).eval()


def bridge(**changes: Any) -> QFormer:
    return QFormer(QFormer.Config(**{**QFORMER, **changes}), {"image": 24}, 20).eval()


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_the_vision_model(blip2: Blip2, eps: float) -> None:
    """Fails when a tensor lands elsewhere, eps differs, or the last norm is missing."""
    own = vision(eps=eps, norm_eps=eps)
    report = load_component(own, blip2.folder)
    assert set(report.loaded) == set(own.state_dict()) and not report.notes.dropped
    pixels = torch.randn(2, 3, 28, 28)
    norms = [one for one in blip2.model.vision_model.modules() if isinstance(one, torch.nn.LayerNorm)]
    for one in norms:
        one.eps = eps
    with torch.no_grad():
        wanted = blip2.model.vision_model(pixels).last_hidden_state
        found = own(pixels).x
        other = vision(eps=eps * 10000, norm_eps=eps)
        load_component(other, blip2.folder)
        assert (other(pixels).x - wanted).abs().max() > 1e-5  # eps is not without effect
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def test_the_qformer(blip2: Blip2) -> None:
    """Fails when queries, layers or the features that they read are others than in transformers."""
    own = bridge()
    report = load_component(own, blip2.folder)
    fresh = {"output.weight", "output.bias"}  # that of BLIP-2 is for T5
    assert set(report.loaded) == set(own.state_dict()) - fresh and set(report.notes.kept) == fresh
    features = torch.randn(2, 5, 24)
    with torch.no_grad():
        queries = blip2.model.query_tokens.expand(2, -1, -1)
        wanted = blip2.model.qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state
        found = own(Features(features), "image")
        torch.testing.assert_close(found, own.output(wanted), atol=1e-6, rtol=1e-6)


def test_the_qformer_of_a_trained_textbind(tmp_path: Path) -> None:
    """Fails when a bridge cannot take Q-Former and projection of a file with the language model."""
    torch.save(stage_2_file(), tmp_path / "second_stage_model.pt")
    own = bridge()
    report = load_component(own, tmp_path / "second_stage_model.pt")
    assert set(report.loaded) == set(own.state_dict()) and not report.notes.kept
    assert set(report.notes.dropped.values()) == {"belongs to the language model"}


def test_shards_that_are_not_needed_may_be_absent(blip2: Blip2, tmp_path: Path) -> None:
    """Fails when shards of the language model are opened, or the error does not name a needed shard."""
    index = json.loads((blip2.folder / "model.safetensors.index.json").read_text())["weight_map"]
    ours = {file for name, file in index.items() if name.startswith(("vision_model.", "qformer.", "query_tokens"))}
    assert set(index.values()) - ours, "the language model needs shards of its own for this test"
    for file in blip2.folder.iterdir():
        if file.name in ours or file.suffix == ".json":
            (tmp_path / file.name).symlink_to(file)
    for part in (vision(weights=tmp_path), bridge(weights=tmp_path)):
        assert list(part.config.problems()) == []
        report = load_component(part, tmp_path)
        assert set(placeholders(tmp_path, part.names_within)) <= set(index)
        assert report.loaded
    (tmp_path / index["query_tokens"]).unlink()
    told = f"1 of . shards that are needed are missing: {index['query_tokens']}; get them with weights fetch"
    with pytest.raises(ValueError, match=told):
        load_component(bridge(), tmp_path)


@pytest.mark.parametrize("names", [to_huggingface, to_lavis], ids=["huggingface", "lavis"])
def test_the_encoder_both_ways(blip2: Blip2, names: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Fails when a tensor is lost or changed on the way back, or has another name than the release."""
    own = vision()
    load_component(own, blip2.folder)
    released = names(own.state_dict())
    if names is to_huggingface:
        wanted = {f"vision_model.{name}": value for name, value in blip2.model.vision_model.state_dict().items()}
        assert released.keys() == wanted.keys()
        assert all(torch.equal(released[name], value) for name, value in wanted.items())
    again = EvaViT.convert(dict(released))
    again = {name: value for name, value in again.items() if not name.endswith("k_bias")}
    assert again.keys() == own.state_dict().keys()
    assert all(torch.equal(again[name], value) for name, value in own.state_dict().items())


@pytest.mark.parametrize("names", ["huggingface", "lavis"])
def test_the_bridge_both_ways(blip2: Blip2, names: str, reference: Path) -> None:
    """Fails when a tensor is lost or changed on the way back, or has another name than the release."""
    own = bridge()
    load_component(own, blip2.folder)
    state = own.state_dict()
    released = to_released(state, names)
    again = {name.replace("queries.image", "queries.all"): value for name, value in rename_released(released).items()}
    assert again.keys() == state.keys() and all(torch.equal(again[name], value) for name, value in state.items())
    if names == "huggingface":
        theirs = {name for name in blip2.model.state_dict() if name.startswith(("qformer.", "query_tokens"))}
        assert released.keys() - {"qformer_projection.weight", "qformer_projection.bias"} == theirs
    else:
        public = json.loads((reference / "blip2_qformer_flant5xxl.json").read_text())["tensors"]
        assert released.keys() - {"llama_proj.weight", "llama_proj.bias"} <= set(public)
    with pytest.raises(ValueError, match=r"2 query sets \(queries.sound, queries.visual\)"):
        to_released({"queries.sound": torch.ones(3, 16), "queries.visual": torch.ones(3, 16)}, names)
    with pytest.raises(ValueError, match="temporal.all has no place in the"):
        to_released({"temporal.all": torch.ones(3, 16)}, names)


def test_a_bias_of_keys_changes_nothing(blip2: Blip2, tmp_path: Path) -> None:
    """Fails when a bias of keys is an error, is dropped without a note, or the output differs."""
    state = {name: value.clone() for name, value in blip2.model.vision_model.state_dict().items()}
    state["encoder.layers.0.self_attn.qkv.bias"][24:48] = torch.randn(24)
    torch.save(state, tmp_path / "vision.pt")
    own, plain = vision(), vision()
    report = load_component(own, tmp_path / "vision.pt")
    load_component(plain, blip2.folder)
    assert any("no effect" in reason for reason in report.notes.dropped.values())
    pixels = torch.randn(1, 3, 28, 28)
    torch.testing.assert_close(own(pixels).x, plain(pixels).x)


def test_files_of_another_kind(blip2: Blip2, tmp_path: Path) -> None:
    """Fails when CLIP's vision model, a wrong prefix or an empty folder is not named."""
    names = ("embeddings.class_embedding", "encoder.layers.0.self_attn.q_proj.weight")
    clip = {f"vision_model.{name}": torch.ones(24) for name in names}
    torch.save(clip, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match="vision model of CLIP.*hf_vision"):
        load_component(vision(), tmp_path / "clip.pt")
    torch.save(stage_2_file(), tmp_path / "second_stage_model.pt")
    with pytest.raises(
        ValueError, match="no tensor of a vision transformer, only those of other parts, such as query_"
    ):
        load_component(vision(), tmp_path / "second_stage_model.pt")
    torch.save({f"net.{n}": v for n, v in blip2.model.qformer.state_dict().items()}, tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match=r"unexpected +net\.layernorm.weight"):
        load_component(bridge(), tmp_path / "wrong.pt")
    (tmp_path / "empty").mkdir()
    problems = list(EvaViT.Config(**VISION, weights=tmp_path / "empty").problems())
    assert "has no config.json" in problems[0].message
    missing = QFormer.Config(weights=Path("Salesforce/blip2-flan-t5-xxl"))
    assert "no model of that id in the Hugging Face cache" in next(iter(missing.problems())).message
    absent = QFormer.Config(weights=tmp_path / "blip2_qformer.pt")
    assert "there is no file" in next(iter(absent.problems())).message


def test_the_preprocessing_is_that_of_blip2(tmp_path: Path) -> None:
    """Fails when an image is cropped, resized with another filter or normalised with other numbers than BLIP-2's."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8))
    image.save(tmp_path / "noise.png")
    theirs = BlipImageProcessor(size={"height": 28, "width": 28})(image, return_tensors="pt")["pixel_values"][0]
    for train in (False, True):
        processor = EvaViT.Config(**VISION, train_resize="bicubic", background="none").processor("image", train, 1)
        found = processor(tmp_path / "noise.png")
        found = processor.statistics.normalised(found) if found.dtype == torch.uint8 else found
        torch.testing.assert_close(found, theirs, atol=1e-5, rtol=0)


def test_clip_in_its_place() -> None:
    """Fails when CLIP's vision model cannot stand in for BLIP-2's with one line."""
    from chatbridge.models.chat_model import ChatModel
    from chatbridge.models.config import ModelConfig

    clip = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    settings = model_mapping(
        encoders={"vision": {"name": "hf_vision", "architecture": clip}},
        bridges={"qformer": {"name": "qformer", **QFORMER, "memory_width": 24}},
        routes={"image": {"encoder": "vision", "bridge": "qformer"}},
    )
    model = ChatModel(parse(ModelConfig, settings))
    assert model.media_tokens({"image": torch.randn(1, 3, 28, 28)})["image"].shape == (1, 3, 20)
