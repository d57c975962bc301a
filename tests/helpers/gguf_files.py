"""Small GGUF files in the layout of llama.cpp, written with the gguf package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGED = ["th", "ĠĠ", "Ġth"]  # tokens of two merges and more
MERGES = ["t h", "Ġ Ġ", "Ġ th"]
FAMILIES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def byte_alphabet() -> list[str]:
    """The 256 characters of byte-level BPE."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return list(bytes_to_unicode().values())


def small_model(family: str = "llama", **sizes: Any) -> Any:
    """A model of two layers over a byte vocabulary; heads of 16 channels are not the default of Qwen3."""
    torch.manual_seed(3)
    settings, kind = FAMILIES[family]
    return kind(settings(**{
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": len(SPECIAL) + 256 + len(MERGED),
        "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
        "tie_word_embeddings": False, **sizes,
    })).eval()  # fmt: skip


def small_llama() -> LlamaForCausalLM:
    """A Llama of two layers over a byte vocabulary."""
    return small_model()


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of a query or key projection in the order of llama.cpp's Llama: pairs of a rotation side by side."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write_llama(path: Path, lm: LlamaForCausalLM, quantized: str = "F32") -> Path:
    """Write a Llama with its tokenizer."""
    return write_gguf(path, lm, "llama", quantized)


def write_gguf(
    path: Path,
    lm: Any,
    family: str = "llama",
    quantized: str = "F32",
    change: Callable[[Any], object] = lambda writer: None,
    pre: str = "smollm",
) -> Path:
    """Write a model with its tokenizer; the names and the permutation are those of llama.cpp's converter.

    change   called with the writer before the tensors, to add more
    """
    import gguf

    writer = gguf.GGUFWriter(str(path), family)
    write_settings(writer, lm.config)
    write_vocabulary(writer, pre)
    change(writer)
    heads = {"q_proj": lm.config.num_attention_heads, "k_proj": lm.config.num_key_value_heads}
    kinds = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[family], lm.config.num_hidden_layers)
    for name, value in lm.state_dict().items():
        if name == "lm_head.weight" and lm.config.tie_word_embeddings:
            continue
        count = next((count for part, count in heads.items() if f"{part}.weight" in name), None)
        is_turned = count is not None and family == "llama"
        array = (permuted(value, count) if is_turned and count else value).numpy().astype(np.float32)
        kind = getattr(gguf.GGMLQuantizationType, quantized if array.ndim == 2 else "F32")
        data = array if kind == gguf.GGMLQuantizationType.F32 else gguf.quants.quantize(array, kind)
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        writer.add_tensor(found, data, raw_dtype=kind)
    return finish(writer, path)


def write_settings(writer: Any, settings: Any) -> None:
    writer.add_name("small")
    writer.add_context_length(settings.max_position_embeddings)
    writer.add_embedding_length(settings.hidden_size)
    writer.add_block_count(settings.num_hidden_layers)
    writer.add_feed_forward_length(settings.intermediate_size)
    writer.add_head_count(settings.num_attention_heads)
    writer.add_head_count_kv(settings.num_key_value_heads)
    writer.add_key_length(16)
    writer.add_layer_norm_rms_eps(settings.rms_norm_eps)
    writer.add_rope_freq_base(settings.rope_parameters["rope_theta"])


def write_vocabulary(writer: Any, pre: str) -> None:
    import gguf

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*SPECIAL, *byte_alphabet(), *MERGED])
    ordinary = [gguf.TokenType.NORMAL] * (256 + len(MERGED))
    writer.add_token_types([gguf.TokenType.CONTROL] * len(SPECIAL) + ordinary)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)


def finish(writer: Any, path: Path) -> Path:
    """Write header and tensors, and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
