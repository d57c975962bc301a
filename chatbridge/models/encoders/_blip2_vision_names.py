"""Tensor names of BLIP-2's vision model in transformers (Blip2VisionModel) and in LAVIS, and ours.

One bias of 3 W channels there, cat(q, k, v), is two here: BLIP-2 has none for keys, its part of k is zero. A part that
is not zero has no effect: it adds the same number to all scores of a query.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

from chatbridge.models.component import State

PREFIX = "vision_model."  # in a file of the whole BLIP-2
OTHERS = (
    "query_tokens",
    "qformer.",
    "Qformer.",
    "language_projection.",
    "language_model.",
    "qformer_projection.",
    "t5_proj.",
    "opt_proj.",
    "llama_proj.",
    "llama_model.",
)  # fmt: skip  names of the other parts
_FIXED = {  # transformers -> ours
    "embeddings.class_embedding": "vit.cls_token",
    "embeddings.position_embedding": "vit.pos_embed",
    "embeddings.patch_embedding.weight": "vit.patch_embed.proj.weight",
    "embeddings.patch_embedding.bias": "vit.patch_embed.proj.bias",
    "post_layernorm.weight": "norm.weight",
    "post_layernorm.bias": "norm.bias",
}
_IN_BLOCKS = {
    "layer_norm1.": "norm1.", "layer_norm2.": "norm2.", "self_attn.qkv.weight": "attn.qkv.weight",
    "self_attn.projection.": "attn.proj.", "mlp.fc1.": "mlp.fc1.", "mlp.fc2.": "mlp.fc2.",
}  # fmt: skip
_BLOCK, _QKV_BIAS = re.compile(r"encoder\.layers\.(\d+)\.(.+)"), "self_attn.qkv.bias"
KEY_BIAS = re.compile(r"vit\.blocks\.\d+\.attn\.k_bias")


def is_huggingface(names: Iterable[str]) -> bool:
    """Whether a file names a vision transformer as transformers does, CLIP's or BLIP-2's, alone or in a whole model."""
    return any(name.removeprefix(PREFIX) == "embeddings.class_embedding" for name in names)


def from_huggingface(state: State) -> State:
    """The tensors by our names; those of other parts and unknown ones keep theirs.

    state    name -> tensor; self_attn.qkv.bias float[3 W], class_embedding float[1, 1, W]
    returns  attn.q_bias, attn.k_bias and attn.v_bias float[W]; others as they are
    raises   ValueError for the vision model of CLIP
    """
    if any("self_attn.q_proj." in name for name in state):
        raise ValueError(
            "it holds a vision model of CLIP (self_attn.q_proj), not BLIP-2's: set name: hf_vision for this encoder"
        )
    ours: State = {}
    for key, value in state.items():
        name = key.removeprefix(PREFIX)
        found = _BLOCK.fullmatch(name)
        if found is not None and found[2] == _QKV_BIAS:
            q, k, v = value.chunk(3)
            place = f"vit.blocks.{found[1]}.attn"
            ours |= {f"{place}.q_bias": q, f"{place}.k_bias": k, f"{place}.v_bias": v}
            continue
        ours[_our_name(name, found) or key] = value
    return ours


def to_huggingface(state: State, prefix: str = PREFIX) -> State:
    """The tensors [...] of an EVA-ViT by the names of transformers; the biases of a block become one float[3 W].

    raises   ValueError for a tensor that Blip2VisionModel does not have
    """
    backward = {ours: theirs for theirs, ours in _FIXED.items()}
    theirs: State = {}
    for name, value in state.items():
        if name in backward:
            theirs[prefix + backward[name]] = value
            continue
        found = re.fullmatch(r"vit\.blocks\.(\d+)\.(.+)", name)
        if found is None:
            raise ValueError(f"{name} has no place in Blip2VisionModel of transformers")
        block, inner = f"{prefix}encoder.layers.{found[1]}.", found[2]
        if inner == "attn.q_bias":
            v = state[name.replace("q_bias", "v_bias")]
            theirs[block + _QKV_BIAS] = torch.cat([value, torch.zeros_like(value), v])
        elif inner != "attn.v_bias":
            theirs[block + _their_inner(inner)] = value
    return theirs


def from_lavis(state: State) -> State:
    """The tensors [...] by our names, of the vision transformer alone or of a whole model; other parts keep theirs."""
    return {_name_of_lavis(key): value for key, value in state.items()}


def to_lavis(state: State) -> State:
    """The tensors [...] of an EVA-ViT by the names of LAVIS in a whole model: visual_encoder.* and ln_vision.*"""
    return {
        name.replace("norm.", "ln_vision.", 1) if name.startswith("norm.") else f"visual_encoder.{name[4:]}": value
        for name, value in state.items()
    }


def _name_of_lavis(key: str) -> str:
    if key.startswith("ln_vision."):
        return key.replace("ln_vision.", "norm.", 1)
    return key if other_part(key) is not None else "vit." + key.removeprefix("visual_encoder.")


def _our_name(name: str, block: re.Match[str] | None) -> str | None:
    if block is None:
        return _FIXED.get(name)
    inner = next(
        (ours + block[2].removeprefix(one) for one, ours in _IN_BLOCKS.items() if block[2].startswith(one)), None
    )
    return inner and f"vit.blocks.{block[1]}.{inner}"


def _their_inner(inner: str) -> str:
    return next(one + inner.removeprefix(ours) for one, ours in _IN_BLOCKS.items() if inner.startswith(ours))


def other_part(name: str) -> str | None:
    """The reason why an encoder does not use a tensor of a whole BLIP-2; None for its own."""
    return "belongs to another part of BLIP-2" if name.startswith(OTHERS) else None
