"""Tiny random language models of many families, for contract tests."""

from __future__ import annotations

from typing import Any

import torch

from chatbridge.models.language.causal_lm import CausalLM

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip
NO_HEAD_DIM = ("falcon",)  # follows from the other sizes, and must not be given
ATTENTION: dict[str, dict[str, Any]] = {  # keys and values of every token
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {},
    "qwen3": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gemma2": {"sliding_window": 5},
    "gemma3_text": {"sliding_window": 5},
    "phi": {},
    "falcon": {},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
}
RUNNING: dict[str, dict[str, Any]] = {  # a recurrent state, alone or with attention
    "mamba": {},
    "jamba": {
        "num_experts": 2, "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False, "attn_layer_period": 2,
        "attn_layer_offset": 1, "expert_layer_period": 2,
    },
    "lfm2": {"full_attn_idxs": [1]},
}  # fmt: skip
REREAD: dict[str, dict[str, Any]] = {"rwkv": {"attention_hidden_size": 32}}  # no cache that a caller could hold


def tiny_language(family: str, seed: int = 0) -> CausalLM:
    sizes = {key: value for key, value in SIZES.items() if key != "head_dim" or family not in NO_HEAD_DIM}
    own = {**ATTENTION, **RUNNING, **REREAD}[family]
    torch.manual_seed(seed)
    return CausalLM(CausalLM.Config(architecture={"model_type": family, **sizes, **own})).eval()


__all__ = ["ATTENTION", "REREAD", "RUNNING", "tiny_language"]
