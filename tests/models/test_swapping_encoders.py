"""Generic encoders over transformers and timm: their folders, their preprocessing, their messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.encoders import ENCODERS
from chatbridge.models.loading import load_weights
from chatbridge.models.trainable import set_trainable
from tests.helpers.tiny_models import LANGUAGE
from tests.helpers.tiny_towers import AST, CLAP, CLIP, CONVNEXT, DINOV2, SIGLIP, TIMM_CONVNET, TIMM_VIT, VIT, WHISPER
from tests.helpers.tolerances import RESIZED

PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 50, 70), dtype=np.uint8))
WAVE = torch.from_numpy(np.random.default_rng(1).normal(size=20000).astype(np.float32)) * 0.1
ALL = {
    "clip": CLIP, "siglip": SIGLIP, "dinov2": DINOV2, "convnext": CONVNEXT, "timm vit": TIMM_VIT,
    "timm convnet": TIMM_CONVNET, "ast": AST, "whisper": WHISPER, "clap": CLAP,
}  # fmt: skip


def config_of(mapping: dict[str, Any]) -> Any:
    return parse(ENCODERS.get(mapping["name"]).Config, {k: v for k, v in mapping.items() if k != "name"})


def encoder_of(mapping: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return ENCODERS.get(mapping["name"])(config_of(mapping)).eval()


def loaded(encoder: dict[str, Any], modality: str, trainable: tuple[str, ...] = ()) -> tuple[ChatModel, list[str]]:
    """A model with one encoder, built as train.py builds it."""
    mapping = {
        "encoders": {"e": encoder}, "bridges": {"b": {"name": "linear"}}, "language": LANGUAGE,
        "routes": {modality: {"encoder": "e", "bridge": "b"}},
    }  # fmt: skip
    model = ChatModel(parse(ModelConfig, mapping))
    set_trainable(model, trainable)
    return model.eval(), load_weights(model)


@pytest.mark.parametrize("name", ALL)
def test_announced_sizes_are_those_that_come(name: str) -> None:
    """fails when a tower's own preprocessing, tokens and width do not fit together, on the CPU or without memory"""
    encoder = encoder_of(ALL[name])
    modality = next(iter(encoder.modalities - {"video"}))
    item = encoder.config.processor(modality, False, 1)(PIXELS if modality == "image" else WAVE)
    media = item[None] if modality == "image" else item
    features = encoder(media, modality).x
    assert features.shape == (1, encoder.num_tokens(modality), encoder.width)
    assert torch.isfinite(features).all()
    with torch.device("meta"):
        empty = encoder_of(ALL[name])
    assert empty.num_tokens(modality) == encoder.num_tokens(modality) and next(empty.parameters()).is_meta


def test_clip_folder_gives_its_seeing_half(tmp_path: Path) -> None:
    """fails when the features of a whole CLIP's folder are not transformers' own, for the last layer or another"""
    sizes = {"vision_config": VIT, "text_config": {**VIT, "vocab_size": 30, "eos_token_id": 2, "bos_token_id": 1}}
    torch.manual_seed(0)
    clip = transformers.CLIPModel(transformers.CLIPConfig(**sizes)).eval()
    clip.save_pretrained(tmp_path)
    model, lines = loaded({"name": "hf_vision", "weights": str(tmp_path)}, "image")
    media = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        expected = clip.vision_model(media, output_hidden_states=True)
    torch.testing.assert_close(model.encoders["e"](media).x, expected.last_hidden_state)
    assert "others not needed" in lines[0]
    inner, _ = loaded({"name": "hf_vision", "weights": str(tmp_path), "layer": -2}, "image", ("encoders.e.*",))
    torch.testing.assert_close(inner.encoders["e"](media).x, expected.hidden_states[-2])
    assert all(parameter.requires_grad for parameter in inner.encoders["e"].parameters())


def test_whisper_folder_gives_its_encoder(tmp_path: Path) -> None:
    """fails when the decoder stays, or the features of the encoder are not transformers' own"""
    architecture = {k: v for k, v in WHISPER["architecture"].items() if k != "model_type"}
    torch.manual_seed(0)
    whisper = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**architecture)).eval()
    whisper.save_pretrained(tmp_path)
    transformers.WhisperFeatureExtractor(**WHISPER["extractor"]).save_pretrained(tmp_path)
    model, _ = loaded({"name": "hf_audio", "weights": str(tmp_path)}, "audio")
    encoder = model.encoders["e"]
    item = encoder.config.processor("audio", False, 2)(WAVE)
    assert item.shape == (2, 16, 100)
    expected = whisper.model.encoder(item[:1]).last_hidden_state
    torch.testing.assert_close(encoder(item[:1]).x, expected)
    assert not any("decoder" in name for name in encoder.state_dict())


def test_whisper_reads_a_shorter_window(tmp_path: Path) -> None:
    """fails when a window that is cut short gives other features than Whisper with a short table of positions"""
    architecture = {k: v for k, v in WHISPER["architecture"].items() if k != "model_type"}
    torch.manual_seed(0)
    config = transformers.WhisperConfig(**architecture | {"max_source_positions": 150})
    whisper = transformers.WhisperForConditionalGeneration(config).eval()
    whisper.save_pretrained(tmp_path)
    transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=3).save_pretrained(tmp_path)
    model, _ = loaded({"name": "hf_audio", "weights": str(tmp_path), "extractor": {"chunk_length": 1}}, "audio")
    encoder = model.encoders["e"]
    item = encoder.config.processor("audio", False, 2)(WAVE)
    assert item.shape == (2, 16, 100) and encoder.num_tokens("audio") == 50
    own = whisper.model.encoder
    own.embed_positions = torch.nn.Embedding.from_pretrained(own.embed_positions.weight.data[:50])
    own.config.max_source_positions = 50
    torch.testing.assert_close(encoder(item).x, own(item).last_hidden_state)
    for wrong in (4, 0, "1", 1.5, True):
        folder = {"name": "hf_audio", "weights": str(tmp_path), "extractor": {"chunk_length": wrong}}
        with pytest.raises(ConfigError, match=r"extractor\.chunk_length"):
            config_of(folder)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_folder_must_fill_the_tower(tmp_path: Path, damage: str) -> None:
    """fails when a folder that lacks a tensor, or a truncated file, gives random features without an error"""
    transformers.Dinov2Model(transformers.Dinov2Config(**VIT)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    if damage == "missing":
        del state["layernorm.weight"]
        save_file(state, file, metadata={"format": "pt"})
    else:
        file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match="layernorm.weight" if damage == "missing" else "cannot be read"):
        loaded({"name": "hf_vision", "weights": str(tmp_path)}, "image")


@pytest.mark.parametrize("side", [(50, 70), (70, 50), (20, 90)])
def test_pictures_as_the_folder_asks(tmp_path: Path, side: tuple[int, int]) -> None:
    """fails when resizing, cropping, scaling or normalising differ from transformers' own CLIP and SigLIP processors"""
    pixels = np.random.default_rng(2).integers(0, 256, (*side, 3), dtype=np.uint8)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}, "do_center_crop": True}
    stretched = {"size": {"height": 28, "width": 28}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
    common = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
    for settings, kind in ((sizes, "CLIPImageProcessorPil"), (stretched, "SiglipImageProcessorPil")):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**common, **settings}))
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip_vision_model", **VIT}))
        config = config_of({"name": "hf_vision", "weights": str(tmp_path)})
        made = config.processor("image", False, 1)(torch.from_numpy(pixels).permute(2, 0, 1))
        theirs: Any = getattr(transformers, kind, None) or getattr(transformers, kind.removesuffix("Pil"))
        expected = theirs.from_pretrained(tmp_path)(pixels, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(made, expected, atol=RESIZED, rtol=0)


@pytest.mark.parametrize("side", [(227, 300), (600, 601), (640, 427)])  # margins of an odd number of pixels
def test_pictures_as_timm_prepares_them(side: tuple[int, int]) -> None:
    """fails when an image is resized or cropped differently from timm's own transform, even by one pixel"""
    from PIL import Image
    from timm.data import create_transform

    config = config_of({"name": "timm_vision", "model": "convnext_tiny.fb_in1k", "random": True})
    drawn = np.random.default_rng(0).integers(0, 256, (*side, 3), dtype=np.uint8)
    ours = config.processor("image", False, 1)(torch.from_numpy(drawn).permute(2, 0, 1))
    timms: Any = create_transform(**config.data)
    torch.testing.assert_close(ours, timms(Image.fromarray(drawn)))


def test_timm_file_fills_and_resizes(tmp_path: Path) -> None:
    """fails when a timm file with a classifier or for larger images does not load, or a tensor stays random"""
    torch.manual_seed(1)
    sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 14}
    full = timm.create_model("vit_tiny_patch16_224", img_size=28, num_classes=5, **sizes).eval()
    torch.save(full.state_dict(), tmp_path / "vit.pth")
    model, _ = loaded({**TIMM_VIT, "weights": str(tmp_path / "vit.pth")}, "image")
    media = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(model.encoders["e"](media).x, full.forward_features(media))
    larger, lines = loaded({**TIMM_VIT, "weights": str(tmp_path / "vit.pth"), "image_size": 56}, "image")
    assert larger.encoders["e"].num_tokens("image") == 17 and "1 reshaped" in lines[0]
    state = {key: value for key, value in full.state_dict().items() if key != "norm.weight"}
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"missing +tower.norm.weight"):
        loaded({**TIMM_VIT, "weights": str(tmp_path / "cut.pth")}, "image")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "timm_vision", "model": "vit_base_patch16_clip_224.openai"},
         "model.safetensors of huggingface.co/timm/vit_base_patch16_clip_224.openai"),
        ({"name": "timm_vision", "model": "vit_tiny_patch16_225"}, "vit_tiny_patch16_224"),
        ({"name": "hf_vision"}, "preprocessor_config.json"),
        ({"name": "hf_vision", "weights": "openai/clip-vit-large-patch14"}, "openai"),
        ({"name": "hf_vision", "architecture": {"model_type": "clip_vision_modle"}}, "clip_vision_model"),
        ({"name": "hf_audio", "architecture": {"hidden_size": 3}}, "model_type"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(mapping: dict[str, Any], message: str) -> None:
    """fails when a message does not have the file or name to give; nothing is ever downloaded"""
    with pytest.raises(ConfigError) as caught:
        config_of(mapping)
    assert message in " ".join(str(caught.value).split())
