"""A small Multimodal-GPT, and files with its tensors under the names of the releases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.experiment.open import open_chat
from chatbridge.models.adapter_layers import inject_adapters
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.trainable import set_trainable
from tests.helpers.tiny_models import LANGUAGE, VISION, tiny_model

TOKENS = ("<|endofchunk|>", "<image>", "<PAD>")
LORA = {"targets": ["language.*.self_attn.?_proj", "fusion.layers.*"], "rank": 2, "alpha": 3.0}
TUNING = {"lora": True, "lora_r": 2, "lora_alpha": 3, "unfrozen": []}
BRIDGE = {"name": "resampler", "depth": 2, "num_latents": 3, "heads": 2, "head_width": 4}
FUSION = {"name": "cross_attention", "every": 2, "heads": 2, "head_width": 4, "media_width": 24, "media": "next"}
SHIPPED = Path(__file__).parents[2] / "eval_configs" / "mmgpt_eval.yaml"
FILLED = ("bridges.", "fusion.", "added_tokens.embedding.", "language.lm.model.embed_tokens.")  # by OpenFlamingo's file
CLIP: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
LLAMA = {"hidden_size": 20, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


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


class Release:
    """Files of a small Multimodal-GPT for the shipped YAML: a CLIP folder, OpenFlamingo's checkpoint and the adapters.

    options  that put them in place, with their sizes
    values   the tensors of both files under our names: normal values, and gates of 2
    """

    def __init__(self, folder: Path, language: Path) -> None:
        """language   a Llama folder of two layers"""
        from transformers import CLIPVisionConfig, CLIPVisionModel

        torch.manual_seed(0)
        CLIPVisionModel(CLIPVisionConfig(**CLIP)).save_pretrained(folder / "clip")
        places = {"encoders.vision.weights": folder / "clip", "language.weights": language,
                  "weights": folder / "checkpoint.pt"}  # fmt: skip
        sizes = {f"encoders.vision.architecture.{key}": value for key, value in CLIP.items()}
        sizes |= {f"language.architecture.{key}": value for key, value in LLAMA.items()}
        sizes |= {f"{part}.{key}": 4 for part in ("fusion", "bridges.resampler") for key in ("heads", "head_width")}
        sizes |= {"bridges.resampler.num_latents": 3, "bridges.resampler.depth": 2}
        sizes |= {"fusion.media_width": CLIP["hidden_size"], "fusion.every": 1}
        given = [f"model.{key}={value}" for key, value in {**places, **sizes}.items()]
        places["weights"].touch()
        self.options = [*given, f"run.init_from={folder / 'mmgpt-lora.pt'}", "run.device=cpu"]
        (folder / "mmgpt-lora.pt").touch()
        self.values = self._written(places["weights"], folder / "mmgpt-lora.pt")

    def _written(self, base: Path, lora: Path) -> dict[str, Tensor]:
        config = open_chat(SHIPPED, self.options).config.model
        with torch.device("meta"):
            model = ChatModel(config)
            own = {name: value for name, value in model.state_dict().items() if name.startswith(FILLED)}
            set_trainable(model, (), config.adapters)
            inject_adapters(model, config.adapters)
            own |= {name: value for name, value in model.state_dict().items() if ".lora_" in name}
        draw = torch.Generator().manual_seed(1)
        values = {name: torch.randn(value.shape, generator=draw) / 2 for name, value in own.items()}
        values |= {name: torch.full(value.shape, 2.0) for name, value in own.items() if name.endswith("_gate")}
        torch.save(released(values), base)
        sizes = {"lora": True, "lora_r": config.adapters[0].rank, "lora_alpha": config.adapters[0].alpha}
        torch.save({"model_state_dict": adapters(values, prefix="module."), "tuning_config": sizes}, lora)
        return values


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
