"""Tensor names and `cfg` of the released BEATs files, converted to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.models.weight_files import read_pickle

_SIZES = {  # released cfg -> our Config
    "encoder_embed_dim": "width",
    "encoder_layers": "depth",
    "encoder_attention_heads": "heads",
    "encoder_ffn_embed_dim": "mlp_width",
    "input_patch_size": "patch_size",
    "embed_dim": "patch_width",
    "conv_bias": "patch_bias",
    "conv_pos": "position_kernel",
    "conv_pos_groups": "position_groups",
    "num_buckets": "num_buckets",
    "max_distance": "max_distance",
    "deep_norm": "deep_norm",
    "gru_rel_pos": "gated",
}
_FIXED = {"layer_norm_first": False, "relative_position_embedding": True, "activation_fn": "gelu"}

_RENAMES = (
    (r"^patch_embedding\.", "patches."),
    (r"^layer_norm\.", "patch_norm."),
    (r"^post_extract_proj\.", "patch_proj."),
    (r"^encoder\.layer_norm\.", "input_norm."),
    (r"^encoder\.pos_conv\.0\.bias$", "position.bias"),
    (r"^encoder\.pos_conv\.0\.(weight_g|parametrizations\.weight\.original0)$", "position.gain"),
    (r"^encoder\.pos_conv\.0\.(weight_v|parametrizations\.weight\.original1)$", "position.direction"),
    (r"^encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"blocks.\1.attn_norm."),
    (r"^encoder\.layers\.(\d+)\.final_layer_norm\.", r"blocks.\1.mlp_norm."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.", r"blocks.\1.attn.\2."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.out."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.grep_linear\.", r"blocks.\1.attn.gate."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.grep_a$", r"blocks.\1.attn.gate_scale"),
    (r"^encoder\.layers\.(\d+)\.", r"blocks.\1."),
    (r"^ln_audio\.", "norm."),
)
_TABLE = re.compile(r"^(?:encoder\.layers|blocks)\.\d+\.(?:self_attn|attn)\.relative_attention_bias\.weight$")


def rename_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename released tensors. The bias table is stored once per layer in the file; equal copies become one.

    state    released name -> tensor [...]
    returns  our name -> the same tensors
    raises   ValueError if two tensors get the same name, or the copies of the table differ
    source   microsoft/unilm: beats (BEATs_iter3_plus_AS2M.pt)
    """
    ours: dict[str, Tensor] = {}
    for key, value in state.items():
        key = key.removeprefix("audio_encoder.")
        name = "relative_bias.weight" if _TABLE.match(key) else _renamed(key)
        if name in ours and not _TABLE.match(key):
            raise ValueError(f"two tensors of the file would become {name}; the second is {key}")
        if name in ours and not torch.equal(ours[name], value):
            raise ValueError(f"{key} differs from the table of the previous layers; BEATs shares one table")
        ours.setdefault(name, value)
    return ours


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMES:
        name, count = re.subn(pattern, replacement, key)
        if count:
            return name
    return key


def sizes_of_file(weights: Path | None) -> dict[str, Any]:
    """The settings that a released weights file states in its `cfg`; empty for a file without one.

    raises   ValueError for a file that cannot be read, or that describes a network this code does not build
    """
    if weights is None or weights.suffix == ".safetensors" or not weights.is_file():
        return {}
    content = read_pickle(weights)
    cfg = content.get("cfg") if isinstance(content, dict) else None
    return {} if cfg is None else sizes_from_cfg(cfg)


def sizes_from_cfg(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A released `cfg` as our settings, without dropout, which belongs to the run.

    raises   ValueError when the file describes a network that this code does not build
    """
    for key, value in _FIXED.items():
        if cfg.get(key, value) != value:
            raise ValueError(f"the file's cfg has {key}={cfg[key]!r}; this BEATs is built for {value!r} only")
    return {ours: cfg[theirs] for theirs, ours in _SIZES.items() if theirs in cfg}
