"""ChatBind's merged model of a tiny size: the folder that the reference's trainer or `weights apply-delta` writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.helpers.tiny_models import VISION

TOKENS = ("<im_patch>", "<im_start>", "<im_end>")
BASE = 600  # rows of the tiny vocabulary, as LLaMA's 32,000
WIDTH, FEATURES = 20, VISION["width"]
LLAMA = {
    "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
CONFIG = {  # of the trainer, leftovers included
    **LLAMA, "model_type": "llava_image_bind_select", "architectures": ["LlavaLlamaImageBindSelectForCausalLM"],
    "mm_hidden_size": FEATURES, "mm_vision_tower": "openai/clip-vit-large-patch14", "mm_vision_select_layer": -2,
    "use_mm_proj": True, "pad_token_id": -1, "torch_dtype": "float16", "vocab_size": BASE + 4,
}  # fmt: skip


def release_folder(path: Path, reference: Path, seed: int = 0) -> Path:
    """Shards in fp16 with their index, config and a slow tokenizer with four added tokens."""
    path.mkdir()
    tensors = release_tensors(seed)
    table = {name: f"pytorch_model-0000{number % 2 + 1}-of-00002.bin" for number, name in enumerate(tensors)}
    for file in set(table.values()):
        torch.save({name: value for name, value in tensors.items() if table[name] == file}, path / file)
    _write(path / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": table})
    _write(path / "config.json", CONFIG)
    write_tokenizer(path, reference)
    return path


def write_tokenizer(path: Path, reference: Path) -> None:
    """The files of transformers 4.28's slow tokenizer."""
    shutil.copyfile(reference / "files" / "chatbind_tiny_tokenizer.model", path / "tokenizer.model")
    ends = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "[PAD]"}
    _write(path / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", **ends})
    _write(path / "special_tokens_map.json", ends)
    _write(path / "added_tokens.json", {token: BASE + number for number, token in enumerate(("[PAD]", *TOKENS))})


def release_tensors(seed: int = 0) -> dict[str, Tensor]:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    lm = LlamaForCausalLM(LlamaConfig(**LLAMA, vocab_size=BASE + 4))
    tensors = {name: torch.randn_like(value).half() * 0.2 for name, value in lm.state_dict().items()}
    buffers = {f"model.layers.{number}.self_attn.rotary_emb.inv_freq": torch.ones(5) for number in range(2)}
    weight, bias = torch.randn(WIDTH, FEATURES), torch.randn(WIDTH)
    return tensors | buffers | {"model.mm_projector.weight": weight.half(), "model.mm_projector.bias": bias.half()}


def release_settings(weights: Path | str) -> dict[str, Any]:
    """The `model:` node of a YAML for it; the encoder is not ImageBind but as wide."""
    return {
        "encoders": {"vision": VISION},
        "bridges": {"projector": {"name": "linear"}},
        "language": {"name": "causal_lm", "weights": str(weights)},
        "routes": {"image": {"encoder": "vision", "bridge": "projector"}},
        "added_tokens": list(TOKENS),
    }


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
