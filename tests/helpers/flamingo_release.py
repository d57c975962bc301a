"""A small Multimodal-GPT, and files with its tensors under the names of the releases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from chatbridge.models.chat_model import ChatModel
from tests.helpers.tiny_models import LANGUAGE, VISION, tiny_model

TOKENS = ("<|endofchunk|>", "<image>", "<PAD>")
LORA = {"targets": ["language.*.self_attn.?_proj", "fusion.layers.*"], "rank": 2, "alpha": 3.0}
TUNING = {"lora": True, "lora_r": 2, "lora_alpha": 3, "unfrozen": []}
BRIDGE = {"name": "resampler", "depth": 2, "num_latents": 3, "heads": 2, "head_width": 4}
FUSION = {"name": "cross_attention", "every": 2, "heads": 2, "head_width": 4, "media_width": 24, "media": "next"}


def flamingo_settings() -> dict[str, Any]:
    """The `model:` node of its YAML."""
    return {
        "encoders": {"vision": VISION},
        "bridges": {"resampler": BRIDGE},
        "language": {**LANGUAGE, "architecture": {**LANGUAGE["architecture"], "num_hidden_layers": 4}},
        "fusion": FUSION,
        "routes": {"image": {"encoder": "vision", "bridge": "resampler"}},
        "added_tokens": list(TOKENS),
    }


def flamingo(seed: int = 0, **changes: Any) -> ChatModel:
    torch.manual_seed(seed)
    return tiny_model(**{**flamingo_settings(), **changes})


def random_values(model: ChatModel, seed: int = 3) -> dict[str, Tensor]:
    """The tensors of the model by name, with other values."""
    torch.manual_seed(seed)
    return {name: torch.randn(value.shape) for name, value in model.state_dict().items()}


def released(values: Mapping[str, Tensor], has_aliases: bool = True) -> dict[str, Tensor]:
    """OpenFlamingo's file: the resampler, the gated blocks twice, the embedding with its new rows, buffers."""
    rows = [values[f"added_tokens.embedding.{token}"][None] for token in TOKENS]
    embedding = torch.cat([values["language.lm.model.embed_tokens.weight"], *rows])
    state = {"lang_encoder.model.embed_tokens.weight": embedding}
    for name, value in values.items():
        if ".lora_" in name:
            continue
        if name.startswith("bridges.resampler."):
            state[f"perceiver.{_perceiver(name.removeprefix('bridges.resampler.'))}"] = value
        elif found := re.fullmatch(r"fusion\.layers\.(\d+)\.(.+)", name):
            number, inner = found[1], _block(found[2])
            state[f"lang_encoder.model.layers.{number}.gated_cross_attn_layer.{inner}"] = value
            if has_aliases:
                state[f"lang_encoder.gated_cross_attn_layers.{number}.{inner}"] = value
    for number in range(4):
        state[f"lang_encoder.model.layers.{number}.decoder_layer.self_attn.rotary_emb.inv_freq"] = torch.ones(5)
    return state


def adapters(values: Mapping[str, Tensor], adapter: str = "default.", prefix: str = "") -> dict[str, Tensor]:
    """Multimodal-GPT's file: A and B alone. adapter: what peft writes before `weight`; prefix: of every name"""
    state = {}
    for name, value in values.items():
        found = re.fullmatch(r"(language\.lm|fusion)\.(.+)\.lora_([AB])\.default\.weight", name)
        if found is None:
            continue
        if found[1] == "fusion":
            _, number, *rest = found[2].split(".")
            layer = f"model.layers.{number}.gated_cross_attn_layer.{_block('.'.join([*rest, 'x'])).removesuffix('.x')}"
        else:
            layer = re.sub(r"^(model\.layers\.\d+)", r"\1.decoder_layer", found[2])
        state[f"{prefix}lang_encoder.base_model.model.{layer}.lora_{found[3]}.{adapter}weight"] = value
    return state


def _perceiver(name: str) -> str:
    name = re.sub(r"^blocks\.(\d+)\.attention\.", r"layers.\1.0.", name)
    for ours, theirs in (("norm", "0"), ("up", "1"), ("down", "3")):
        name = re.sub(rf"^blocks\.(\d+)\.feed_forward\.{ours}\.", rf"layers.\1.1.{theirs}.", name)
    return name


def _block(name: str) -> str:
    ours = {"attention_gate": "attn_gate", "feed_forward_gate": "ff_gate"}
    for one, number in (("norm", "0"), ("up", "1"), ("down", "3")):
        name = re.sub(rf"^feed_forward\.{one}\.", f"ff.{number}.", name)
    return ours.get(name, re.sub(r"^attention\.", "attn.", name))
