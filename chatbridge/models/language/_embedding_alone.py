"""A language model of which only the embedding of its tokens is in memory: it makes prompts for one elsewhere.

The decoder layers and the head have placeholders. Everything that follows from the settings (sizes, context length, end
ids) and `embed` are those of the whole model; `forward` and `logits` have no meaning.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from chatbridge.models.language._sharded_files import compute_buffers, placeholder, set_tensor, stored_once
from chatbridge.models.language.causal_lm import CausalLM

FILE, NAME = "token_embedding.safetensors", "weight"


def put_placeholders(language: CausalLM, device: torch.device, dtype: torch.dtype) -> None:
    """Give every tensor of a model on the meta device a placeholder, which takes no memory; buffers are computed."""
    for name, tensor in stored_once(language.lm).items():
        empty = placeholder(tensor.shape, dtype if tensor.is_floating_point() else tensor.dtype, device)
        is_parameter = isinstance(tensor, nn.Parameter)
        set_tensor(language.lm, name, nn.Parameter(empty, requires_grad=False) if is_parameter else empty)
    language.lm.tie_weights()
    compute_buffers(language.lm, device)


def read_embedding(language: CausalLM, path: Path, device: torch.device) -> str:
    """Read the embedding float[V, D] in the dtype of its file, which is that of the whole model where it runs.

    returns  a line for the log
    raises   ValueError when the file has another shape than the settings, or cannot be read
    """
    embedding = language.vocabulary_modules[0]
    try:
        with safe_open(path, framework="pt") as file:
            rows = file.get_tensor(NAME)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read as the embedding of the language model ({error})") from None
    if tuple(rows.shape) != tuple(embedding.weight.shape):
        raise ValueError(
            f"{path} has the shape {list(rows.shape)}, the settings beside it are of {list(embedding.weight.shape)}; "
            "export the folder again"
        )
    embedding.weight = nn.Parameter(rows.to(device), requires_grad=False)
    return f"language: the embedding alone from {path}, {len(rows):,} rows in {str(rows.dtype).removeprefix('torch.')}"
