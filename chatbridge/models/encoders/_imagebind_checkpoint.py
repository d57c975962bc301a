"""The names of ImageBind's released file (imagebind_huge.pth, 1,311 tensors) and ours."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from chatbridge.models.component import State
from chatbridge.models.encoders._imagebind_trunks import MAX_SCALE

_PATCHED = "vision|audio|depth|thermal"
_NAMES = [  # (a whole released name, ours); together they are one to one
    (rf"modality_preprocessors\.({_PATCHED}|imu)\.cls_token", r"\1.class_token"),
    (rf"modality_preprocessors\.({_PATCHED})\.pos_embedding_helper\.pos_embed", r"\1.positions"),
    (r"modality_preprocessors\.(text|imu)\.pos_embed", r"\1.positions"),
    (r"modality_preprocessors\.(text)\.token_embedding\.weight", r"\1.embedding.weight"),
    (r"modality_preprocessors\.(text)\.mask", r"\1.mask"),
    (r"modality_preprocessors\.(vision)\.rgbt_stem\.proj\.1\.weight", r"\1.stem.weight"),
    (r"modality_preprocessors\.(?:(audio|thermal)\.rgbt|(depth)\.depth|(imu)\.imu)_stem\.proj\.weight",
     r"\1\2\3.stem.weight"),
    (r"modality_preprocessors\.(?:(audio|thermal)\.rgbt|(depth)\.depth|(imu)\.imu)_stem\.norm_layer\.(weight|bias)",
     r"\1\2\3.stem_norm.\4"),
    (r"modality_trunks\.(vision)\.pre_transformer_layer\.0\.(weight|bias)", r"\1.input_norm.\2"),
    (r"modality_trunks\.(\w+)\.blocks\.(\d+)\.attn\.in_proj_(weight|bias)", r"\1.blocks.\2.attn.qkv.\3"),
    (r"modality_trunks\.(\w+)\.blocks\.(\d+)\.attn\.out_proj\.(weight|bias)", r"\1.blocks.\2.attn.out.\3"),
    (r"modality_trunks\.(\w+)\.blocks\.(\d+)\.attn\.bias_k", r"\1.blocks.\2.attn.extra_key"),
    (r"modality_trunks\.(\w+)\.blocks\.(\d+)\.attn\.bias_v", r"\1.blocks.\2.attn.extra_value"),
    (r"modality_trunks\.(\w+)\.blocks\.(\d+)\.norm_1\.(weight|bias)", r"\1.blocks.\2.attn_norm.\3"),
    (r"modality_trunks\.(\w+)\.blocks\.(\d+)\.norm_2\.(weight|bias)", r"\1.blocks.\2.mlp_norm.\3"),
    (r"modality_trunks\.(\w+)\.blocks\.(\d+)\.mlp\.fc([12])\.(weight|bias)", r"\1.blocks.\2.fc\3.\4"),
    (rf"modality_heads\.({_PATCHED}|imu)\.0\.(weight|bias)", r"\1.head_norm.\2"),
    (rf"modality_heads\.({_PATCHED})\.2\.weight", r"\1.head.weight"),
    (r"modality_heads\.(imu)\.3\.weight", r"\1.head.weight"),
    (r"modality_heads\.(text)\.proj\.0\.(weight|bias)", r"\1.head_norm.\2"),
    (r"modality_heads\.(text)\.proj\.1\.weight", r"\1.head.weight"),
    (r"modality_postprocessors\.(text)\.1\.log_logit_scale", r"\1.log_scale"),
    (r"modality_postprocessors\.(audio|depth|thermal|imu)\.1\.log_logit_scale", r"\1.scale"),
]  # fmt: skip
_PATTERNS = [(re.compile(released), ours) for released, ours in _NAMES]


def our_name(key: str) -> str:
    """Our name of a released tensor; an unknown name is returned unchanged."""
    for pattern, ours in _PATTERNS:
        if (found := pattern.fullmatch(key)) is not None:
            return f"trunks.{found.expand(ours)}"
    return key


def rename_released(state: State) -> State:
    """Our name -> tensor [...] by our names; names that are ours already stay, and so do unknown ones."""
    renamed: State = {}
    for key, value in state.items():
        name = our_name(key)
        renamed[name] = value if name == key else _our_value(name, value)
    return renamed


def _our_value(name: str, value: Tensor) -> Tensor:
    """The fixed scales are released as logarithms and become the scales themselves: 20 and 5 are exact in half
    precision, their logarithms are not. The learned scale, released as float[], becomes float[1]."""
    if name.endswith(".scale"):
        return value.float().exp().clamp(max=MAX_SCALE)
    return value[None] if name.endswith(".log_scale") else value


def is_causal_mask(mask: Tensor) -> bool:
    """Whether an additive mask hides exactly what comes later. float[N, N]; the meta device has no values to check"""
    if mask.is_meta:
        return True
    hidden = torch.ones(mask.shape, dtype=torch.bool, device=mask.device).triu(1)
    return bool((torch.isneginf(mask) == hidden).all()) and bool((mask[~hidden] == 0).all())
