"""Language models of many families: our logits at a few points are transformers' own at all points."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from chatbridge.models.language.causal_lm import CausalLM

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "bos_token_id": 1,
         "num_attention_heads": 4, "num_key_value_heads": 4, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma2": {"head_dim": 8},  # squashes its logits
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 3.0},  # divides them
    "minicpm3": {  # divides them too
        "dim_model_base": 8, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
        "v_head_dim": 8,
    },
    "cohere": {},  # multiplies them
    "recurrent_gemma": {  # squashes them, under another name
        "num_hidden_layers": 3, "logits_soft_cap": 2.0, "lru_width": 32, "attention_window_size": 8,
    },
    "opt": {"word_embed_proj_dim": 16, "ffn_dim": 64, "max_position_embeddings": 64},  # narrower embeddings
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_whole_model(family: str) -> None:
    """Fails when training scores other logits than generation uses: a scale or a cap after the head is missing."""
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {family}")
    torch.manual_seed(0)
    model = CausalLM(CausalLM.Config(architecture={"model_type": family, **SIZES, **FAMILIES[family]})).eval()
    embeds = 5 * model.embed(torch.randint(3, 50, (2, 9)))
    positions = torch.arange(9).expand(2, -1)
    with torch.no_grad():
        ours = model.logits(model(embeds, positions))
        theirs = model.lm(inputs_embeds=embeds, position_ids=positions).logits
    torch.testing.assert_close(ours, theirs)
