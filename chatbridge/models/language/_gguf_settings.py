"""The settings of a language model from the header of its GGUF file, and why a file cannot be used.

transformers has a table from llama.cpp's names to its own. It is used here without reading the weights, and completed
where it loses something that changes the values of the model: the width of a head (Qwen3), the scaling of the rotary
frequencies (Llama 3.1 and later, YaRN), biases, and the token that ends an answer where it is not the end of a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from chatbridge.common.errors import nearest
from chatbridge.common.extras import need
from chatbridge.common.gguf_header import GGUFHeader
from chatbridge.common.quiet_transformers import quiet_transformers
from chatbridge.models.hf_folder import said

# families whose settings are read here, with their classes; others by transformers itself
PLAIN = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
ROPE_FREQS = "rope_freqs.weight"
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_SIZES = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count", "context_length")
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def known_families() -> list[str]:
    """The families that transformers reads, by llama.cpp's names."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    other = {"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gpt_oss": "gpt-oss", "minimax_m2": "minimax-m2"}
    left_out = ("general", "tokenizer", "t5", "umt5", "t5encoder")
    listed = [str(name) for name in GGUF_SUPPORTED_ARCHITECTURES if name not in left_out]
    return sorted({other.get(name, name) for name in listed} | _newer())


def _newer() -> set[str]:
    """Families that a later transformers reads by another path of its own."""
    try:
        from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS
    except ImportError:
        return set()
    return {name for name in GGUF_ARCHS if name is not None}


def header_faults(header: GGUFHeader) -> Iterator[str]:
    """Why a file is not a whole language model that can be read; the message continues its path."""
    split = _SPLIT.search(header.path.name)
    parts = int(split.group(2)) if split else header.fields.get("split.count", 1)
    if parts > 1:
        yield (
            f"is one of {parts} parts of a model, and transformers reads one file; join them with llama.cpp's "
            "llama-gguf-split --merge, or take the model in one file"
        )
        return
    what = {"mmproj": "the projector of a multimodal model (mmproj)", "adapter": "an adapter (LoRA)"}
    kind = "mmproj" if header.family == "clip" else str(header.fields.get("general.type", "model"))
    if kind in what:
        yield f"is {what[kind]} for llama.cpp, not a language model; give the file of the language model"
    elif not header.tensors:
        yield "has a vocabulary and no weights; give the file of the whole model"
    elif header.family not in (known := known_families()):
        guess = nearest(header.family, known)
        meant = f" (similar: {guess})" if guess else ""
        yield (
            f"is of the family {header.family!r}, which this transformers does not read from GGUF{meant}; it reads "
            f"{', '.join(known)}. A folder of the model may be read: weights fetch OWNER/NAME FOLDER"
        )
    else:
        yield from _incomplete(header)
        yield from _not_expressible(header)


def _incomplete(header: GGUFHeader) -> Iterator[str]:
    if absent := [key for key in _SIZES if header.of_family(key) is None and header.family in PLAIN]:
        yield f"lacks settings of the model: {', '.join(f'{header.family}.{key}' for key in absent)}"
    if "token_embd.weight" not in header.tensors:
        yield "has no token_embd.weight, the embedding of its tokens"
    gguf: Any = need("gguf", "a language model from a GGUF file")
    kinds = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    if unknown := sorted({tensor.kind for tensor in header.tensors.values()} - set(kinds)):
        yield f"has tensors of a type that the package gguf does not know (number {unknown[0]}); update it"
        return
    end, size = 0, header.path.stat().st_size
    for tensor in header.tensors.values():
        values, num_bytes = kinds[tensor.kind]
        end = max(end, tensor.start + tensor.num_values // values * num_bytes)
    if end > size:
        yield f"is truncated: it has {size:,} bytes, and its header describes {end:,}; download it again"


def _not_expressible(header: GGUFHeader) -> Iterator[str]:
    """What transformers' loader would leave out silently, with other values as the result."""
    if header.family == "llama" and header.of_family("expert_count", 0) > 0:
        yield "is a mixture of experts (Mixtral), which transformers does not read from GGUF; take a folder of it"
    scaling = header.of_family("rope.scaling.type", "none")
    if scaling != "none" and not (header.family in PLAIN and scaling in ("linear", "yarn")):
        yield f"scales its rotary positions ({scaling}), which transformers leaves out; take a folder of the model"
    factors = [name for name in header.tensors if name.startswith("rope_f")]
    if factors and not (header.family == "llama" and factors == [ROPE_FREQS]):
        yield f"has {factors[0]}, which transformers leaves out; take a folder of the model"
    elif factors:
        try:
            llama3_scaling(header)
        except ValueError as error:
            yield str(error)


def settings_of(header: GGUFHeader) -> Any:
    """The transformers configuration of a file without faults. raises ValueError when its values make no model"""
    from transformers import AutoConfig

    try:
        with quiet_transformers(True):
            if header.family in PLAIN:
                return AutoConfig.for_model(**_plain_settings(header))
            path: Path = header.path
            found = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
    except Exception as error:  # transformers raises many types for values that do not fit
        raise ValueError(f"{header.path}: its settings make no model: {said(error)}") from None
    if hasattr(found, "quantization_config"):
        delattr(found, "quantization_config")
    return found


def _plain_settings(header: GGUFHeader) -> dict[str, Any]:
    """The settings by the names of config.json."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    table = GGUF_CONFIG_MAPPING[header.family]
    found = {name: header.of_family(key) for key, name in table.items() if name not in (None, "head_dim")}
    found = {name: value for name, value in found.items() if value is not None}
    heads = found["num_attention_heads"]
    theta = found.pop("rope_theta", 10000.0)
    width = header.of_family("attention.key_length") or header.of_family("rope.dimension_count")
    own: dict[str, Any] = {
        "model_type": header.family,
        "architectures": [PLAIN[header.family]],
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "num_key_value_heads": found.get("num_key_value_heads", heads),
        "head_dim": width or found["hidden_size"] // heads,
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "rope_parameters": {"rope_theta": theta, **_rope(header)},
    }  # fmt: skip
    if header.family == "llama":
        own["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
        own["mlp_bias"] = "blk.0.ffn_up.bias" in header.tensors
    return {**found, **own, **token_ids(header)}


def token_ids(header: GGUFHeader) -> dict[str, Any]:
    """The ids of begin, end and padding. The end of a turn ends an answer too where the file has one of its own."""

    def number(key: str) -> int | None:
        value = header.fields.get(f"tokenizer.ggml.{key}_token_id")
        return value if isinstance(value, int) and value < max(1, len(header.tokens)) else None

    ends = list(dict.fromkeys(one for one in (number("eos"), number("eot")) if one is not None))
    end: Any = ends if len(ends) > 1 else ends[0] if ends else None
    return {"bos_token_id": number("bos"), "eos_token_id": end, "pad_token_id": number("padding")}


def _rope(header: GGUFHeader) -> dict[str, Any]:
    kind = header.of_family("rope.scaling.type", "none")
    if ROPE_FREQS in header.tensors:
        return llama3_scaling(header)
    if kind == "none":
        return {"rope_type": "default"}
    scaling: dict[str, Any] = {"rope_type": kind, "factor": header.of_family("rope.scaling.factor", 1.0)}
    original = header.of_family("rope.scaling.original_context_length")
    if kind == "yarn" and original is not None:
        scaling["original_max_position_embeddings"] = original
    return scaling


def llama3_scaling(header: GGUFHeader) -> dict[str, Any]:
    """The scaling of Llama 3.1 and later; the file has only the divisor of each frequency, float[head_dim / 2].

    raises   ValueError when the divisors are not those of its formula
    """
    tensor = header.tensors[ROPE_FREQS]
    with header.path.open("rb") as file:
        file.seek(tensor.start)
        raw = file.read(4 * tensor.num_values)
    divisors = torch.frombuffer(bytearray(raw), dtype=torch.float32) if len(raw) == 4 * tensor.num_values else None
    if divisors is None or tensor.kind != 0:
        raise ValueError(f"has {ROPE_FREQS} that cannot be read as float32")
    settings = {"rope_type": "llama3", "factor": float(divisors.max()), **_LLAMA3}
    expected = _llama3_divisors(header.of_family("rope.freq_base", 10000.0), len(divisors), settings)
    if not torch.allclose(divisors, expected, rtol=1e-3):
        raise ValueError(f"has {ROPE_FREQS} of an unknown scaling of its positions; take a folder of the model")
    return settings


def _llama3_divisors(theta: float, half: int, settings: dict[str, Any]) -> torch.Tensor:
    """float[half]: 1 for short wavelengths, the factor for long ones, and a blend between them."""
    lengths = 2 * torch.pi * theta ** (torch.arange(half, dtype=torch.float64) / half)
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    original = settings["original_max_position_embeddings"]
    blend = ((original / lengths - low) / (high - low)).clamp(0, 1)
    return (1 / (blend + (1 - blend) / settings["factor"])).float()
