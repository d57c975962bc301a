"""TextBind's released files of a tiny size: BLIP-2's folder, and flat dictionaries as the reference's training writes
them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.models.chat_model import ChatModel
from tests.helpers.tiny_models import LANGUAGE, VISION, tiny_model

ROWS, WIDTH, FEATURES = 50, 20, VISION["width"]  # of Llama-2's vocabulary, of its layers, of the encoder
TOKENS = ("<image>", "<start>", "<end>")
BLIP2_VISION = {"width": FEATURES, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "image_size": 28}
SHARD = 12_000  # bytes; the language model of BLIP-2 gets shards of its own
QFORMER = {"name": "qformer", "num_queries": 3, "num_layers": 2, "width": 16, "heads": 2}


def settings(**changes: Any) -> dict[str, Any]:
    """The `model:` keys of TextBind of a tiny size."""
    return {
        "encoders": {"vision": {**VISION, "eps": 1e-5}},
        "bridges": {"qformer": QFORMER},
        "language": LANGUAGE,
        "routes": {"image": {"encoder": "vision", "bridge": "qformer"}},
        "added_tokens": list(TOKENS),
        **changes,
    }


def textbind(**changes: Any) -> ChatModel:
    return tiny_model(**settings(**changes))


def qformer_file(seed: int = 1) -> dict[str, Tensor]:
    """blip2_qformer.pt: query tokens and Q-Former by the names of transformers' own classes."""
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    torch.manual_seed(seed)
    config = Blip2QFormerConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        cross_attention_frequency=2, encoder_hidden_size=FEATURES,
    )  # fmt: skip
    layers = Blip2QFormerModel(config).state_dict()
    return {"query_tokens": torch.randn(1, 3, 16)} | {f"qformer.{name}": _like(value) for name, value in layers.items()}


def stage_1_file(seed: int = 1) -> dict[str, Tensor]:
    """The result of stage 1: the projection too."""
    tensors = qformer_file(seed)
    return tensors | {
        "qformer_projection.weight": torch.randn(WIDTH, 16),
        "qformer_projection.bias": torch.randn(WIDTH),
    }


def stage_2_file(seed: int = 1, num_added: int = 3) -> dict[str, Tensor]:
    """second_stage_model.pt: the language model with three rows more, and the buffers of 2023. Made once per seed."""
    return dict(_stage_2_file(seed, num_added))


@cache
def _stage_2_file(seed: int, num_added: int) -> dict[str, Tensor]:
    from transformers import LlamaConfig, LlamaForCausalLM

    tensors = stage_1_file(seed)
    lm = LlamaForCausalLM(LlamaConfig(**{**LANGUAGE["architecture"], "vocab_size": ROWS + num_added}))
    tensors |= {f"language_model.{name}": _like(value) for name, value in lm.state_dict().items()}
    frequencies = "language_model.model.layers.{}.self_attn.rotary_emb.inv_freq"
    return tensors | {frequencies.format(number): torch.ones(5) for number in range(2)}


def _like(value: Tensor) -> Tensor:
    return torch.randn(value.shape) * 0.2 + (value.ndim == 1)


@dataclass(frozen=True)
class Blip2:
    """A tiny BLIP-2 of transformers with random weights, and its folder in shards."""

    model: Any
    folder: Path


def tiny_blip2(folder: Path) -> Blip2:
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    torch.manual_seed(0)
    config = Blip2Config(
        vision_config={"hidden_size": FEATURES, "intermediate_size": 48, "num_hidden_layers": 2,
                       "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "layer_norm_eps": 1e-5},
        qformer_config={"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
                        "encoder_hidden_size": FEATURES, "cross_attention_frequency": 2},
        text_config={"model_type": "t5", "d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8,
                     "vocab_size": 300},
        num_query_tokens=3,
    )  # fmt: skip
    model = Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.randn(value.shape) * (0.3 if value.ndim > 1 else 0.1) + ("norm" in name.lower()))
        for layer in model.vision_model.encoder.layers:
            layer.self_attn.qkv.bias[FEATURES : 2 * FEATURES] = 0  # BLIP-2 has no bias of keys
    model.save_pretrained(folder, max_shard_size=SHARD)
    return Blip2(model, folder)
