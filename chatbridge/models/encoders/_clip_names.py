"""CLIP's vision tower as OpenAI and open_clip store it: names and sizes for the tower of transformers.

    visual.conv1.weight                            float[W, 3, P, P]   embeddings.patch_embedding.weight
    visual.class_embedding                         float[W]            embeddings.class_embedding
    visual.positional_embedding                    float[N, W]         embeddings.position_embedding.weight
    visual.ln_pre.*, visual.ln_post.*              float[W]            pre_layrnorm.*, post_layernorm.*
    visual.transformer.resblocks.I.ln_1.*, ln_2.*                      encoder.layers.I.layer_norm1.*, layer_norm2.*
    ...resblocks.I.attn.in_proj_{weight,bias}      float[3 W, ...]     self_attn.{q,k,v}_proj.*, three equal parts
    ...resblocks.I.attn.out_proj.*                                     self_attn.out_proj.*
    ...resblocks.I.mlp.c_fc.*, mlp.c_proj.*                            mlp.fc1.*, mlp.fc2.*
    visual.proj                                    float[W, E]         for texts; not part of the tower

The names may lack `visual.` (open_flamingo 2), and the tower of texts may be in the same file.
Source: openai/CLIP: clip/model.py; mlfoundations/open_clip: src/open_clip/transformer.py
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from chatbridge.models.component import State

MARK, BLOCK = "conv1.weight", re.compile(r"transformer\.resblocks\.(\d+)\.(.+)$")
HEAD_WIDTH, MOST_HEADS = 64, 16  # channels of a head up to ViT-L; H, g and bigG keep its 16 heads
_PARTS = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    MARK: "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
_INNER = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
          "mlp.c_proj": "mlp.fc2"}  # fmt: skip
_OTHERS = re.compile(
    r"(visual\.)?proj$|(transformer|token_embedding|ln_final|text)\.|"
    r"(text_projection|logit_scale|logit_bias|positional_embedding|input_resolution|context_length|vocab_size)$"
)


def is_clip_vision(names: Iterable[str]) -> bool:
    """Whether the names are those of OpenAI's or open_clip's ViT, with or without `visual.`."""
    names = set(names)
    return any({f"{prefix}{MARK}", f"{prefix}ln_pre.weight"} <= names for prefix in ("visual.", ""))


def other_reason(name: str) -> str | None:
    """Why a tensor that `tower_names` left over is not used; None for one that CLIP does not have."""
    return "the projection for texts, or the tower of texts" if _OTHERS.match(name) else None


def tower_names(state: State) -> tuple[State, tuple[str, ...]]:
    """The tensors [...] of the vision tower by transformers' names, and the names that are not part of it.

    raises   ValueError for a tensor within `visual.` that is not known
    """
    prefix = "visual." if f"visual.{MARK}" in state else ""
    found: State = {}
    others = []
    for name, value in state.items():
        inner = name.removeprefix(prefix)
        if (prefix and not name.startswith(prefix)) or inner == "proj":
            others.append(name)
        else:
            found |= _renamed(inner, value)
    return found, tuple(others)


def _renamed(name: str, value: Tensor) -> State:
    """The tensors of the tower that one of a file becomes: three of an in_proj."""
    if name in _PARTS:
        return {_PARTS[name]: value}
    match = BLOCK.match(name)
    if match is None:
        raise ValueError(f"{name} is not a tensor of CLIP's ViT, which has {', '.join(_PARTS)} and resblocks")
    layer, inner = f"encoder.layers.{match[1]}", match[2]
    part, _, leaf = inner.rpartition(".")
    if part in _INNER:
        return {f"{layer}.{_INNER[part]}.{leaf}": value}
    if inner in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = inner.rpartition("_")[2]
        return {f"{layer}.self_attn.{one}_proj.{kind}": third for one, third in zip("qkv", value.chunk(3), strict=True)}
    raise ValueError(f"{name} is not a tensor of a block of CLIP's ViT")


def tower_sizes(state: State, activation: str) -> dict[str, Any]:
    """The sizes of a tower as transformers' clip_vision_model takes them.

    state       its tensors by transformers' names, as `tower_names` returns them
    activation  quick_gelu of OpenAI's weights, gelu of most of open_clip's; no tensor shows it
    """
    width, _, patch, _ = state["embeddings.patch_embedding.weight"].shape
    num_patches = state["embeddings.position_embedding.weight"].shape[0] - 1
    layers = {name.split(".")[2] for name in state if name.startswith("encoder.layers.")}
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": state["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": min(MOST_HEADS, max(1, width // HEAD_WIDTH)),
        "image_size": round(num_patches**0.5) * patch,
        "patch_size": patch,
        "hidden_act": activation,
    }
