"""The table of the README: every encoder with every bridge and every language model, each built and stepped once."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.encoders import Encoder
from chatbridge.models.trainable import set_trainable
from tests.helpers.tiny_models import AUDIO, IMAGEBIND, VISION
from tests.helpers.tiny_towers import AST, CLAP, CLIP, DINOV2, SIGLIP, TIMM_CONVNET, TIMM_VIT, WHISPER

WORDS = 40
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "EVA-ViT": ("image", VISION),
    "CLIP": ("image", CLIP),
    "SigLIP": ("image", SIGLIP),
    "DINOv2": ("image", DINOV2),
    "timm ViT": ("image", TIMM_VIT),
    "timm ConvNeXt": ("image", TIMM_CONVNET),
    "BEATs": ("audio", AUDIO),
    "Whisper": ("audio", WHISPER),
    "AST": ("audio", AST),
    "CLAP": ("audio", CLAP),
    "ImageBind": ("image", IMAGEBIND),
}
BRIDGES = {
    "qformer": {"name": "qformer", "num_queries": 2, "num_layers": 2, "width": 8, "heads": 2},
    "linear": {"name": "linear", "pool": 2},
    "mlp": {"name": "mlp", "hidden": 8, "pool": 2},
    "resampler": {"name": "resampler", "num_latents": 2, "depth": 1, "heads": 2, "head_width": 4},
}
_SIZES = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
          "num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
LANGUAGES = {
    "Llama": {"model_type": "llama", **_SIZES},
    "Mistral": {"model_type": "mistral", "num_key_value_heads": 1, **_SIZES},
    "Qwen2": {"model_type": "qwen2", "num_key_value_heads": 1, **_SIZES},
    "Gemma": {"model_type": "gemma2", "num_key_value_heads": 1, "head_dim": 8, **_SIZES},
    "GPT-2": {"model_type": "gpt2", "vocab_size": WORDS, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64,
              "bos_token_id": 1, "eos_token_id": 2},
    "OPT": {"model_type": "opt", "ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 64, **_SIZES},
}  # fmt: skip


def model_of(encoder: str, bridge: str, language: str) -> ChatModel:
    modality, settings = ENCODERS[encoder]
    one = settings["name"] == "imagebind"  # gives a single feature, which cannot be pooled to two
    mapping = {
        "encoders": {"tower": settings},
        "bridges": {"bridge": {key: value for key, value in BRIDGES[bridge].items() if not (one and key == "pool")}},
        "language": {"name": "causal_lm", "architecture": LANGUAGES[language]},
        "routes": {modality: {"encoder": "tower", "bridge": "bridge"}},
    }
    torch.manual_seed(0)
    model = ChatModel(parse(ModelConfig, mapping))
    set_trainable(model, ["bridges.*"])
    return model.train()


@cache
def item_of(encoder: str) -> torch.Tensor:
    """What the encoder's own preprocessing makes of noise."""
    modality, settings = ENCODERS[encoder]
    choice = parse(ModelConfig, {
        "encoders": {"tower": settings}, "bridges": {"bridge": {"name": "linear"}},
        "language": {"name": "causal_lm", "architecture": LANGUAGES["Llama"]},
        "routes": {modality: {"encoder": "tower", "bridge": "bridge"}},
    }).encoders["tower"]  # fmt: skip
    draw = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=draw)
    wave = torch.randn(16000, generator=draw) * 0.1
    return choice.config.processor(modality, False, 1)(noise if modality == "image" else wave)


def batch_of(model: ChatModel, encoder: str) -> Batch:
    """A sequence: a token, the item's slots, five text tokens of which the last three are supervised."""
    modality = ENCODERS[encoder][0]
    slots = model.media_lengths()[modality]
    ids = torch.cat([torch.tensor([1]), torch.zeros(slots, dtype=torch.long), torch.tensor([5, 9, 7, 6, 8])])[None]
    length = ids.shape[1]
    predict_at = torch.arange(length - 4, length - 1)
    return Batch(
        ids=ids, positions=torch.arange(length)[None], lengths=torch.tensor([length]), predict_at=predict_at,
        target=ids[0, predict_at + 1], media={modality: item_of(encoder)[None]},
        media_slots={modality: 1 + torch.arange(slots)[None]}, sources=("noise",),
    )  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_cell_takes_a_step(encoder: str) -> None:
    """fails when a combination does not build, gives no finite loss, or a step moves anything but the bridge"""
    for bridge in BRIDGES:
        for language in LANGUAGES:
            model = model_of(encoder, bridge, language)
            before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            loss = model(batch_of(model, encoder))
            (loss.total / loss.count).backward()
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            reached = {name for name, p in trained.items() if p.grad is not None and bool(p.grad.abs().max() > 0)}
            torch.optim.SGD(trained.values(), lr=0.1).step()
            moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
            cell = f"{encoder} x {bridge} x {language}"
            assert torch.isfinite(loss.total), cell
            assert moved <= set(trained) and moved <= reached, cell
            still = {name for name in set(trained) - moved if not name.endswith("key.bias")}  # a softmax drops them
            if encoder == "ImageBind":  # a softmax over its single feature is 1, whatever queries and keys are
                still = {name for name in still if "crossattention" not in name or ".value." in name}
            assert not still, f"{cell}: {still}"


def test_the_table_names_registered_encoders() -> None:
    """fails when an encoder joins the registry and no row of the table uses it"""
    from chatbridge.models.encoders import ENCODERS as REGISTERED

    assert {settings["name"] for _, settings in ENCODERS.values()} == set(REGISTERED.names())
    assert issubclass(REGISTERED.get("hf_vision"), Encoder)
