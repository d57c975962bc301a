"""The configuration and the weights of a causal language model from its Hugging Face folder."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from chatbridge.common.gguf_kind import is_gguf_name
from chatbridge.common.quiet_transformers import quiet_transformers
from chatbridge.models.hf_folder import read_folder, said
from chatbridge.models.language._gguf_file import gguf_settings, read_gguf
from chatbridge.models.language._llava_folder import PROJECTOR, language_settings, llava_settings


def is_buffer(name: str) -> bool:
    """Whether a tensor of an old file is a buffer computed from the sizes: rotary frequencies, GPT-2's causal masks."""
    return re.search(r"(rotary_emb\.inv_freq|\.attn\.(bias|masked_bias))$", name) is not None


def architecture(weights: Path | None, sizes: Mapping[str, Any]) -> Any:
    """The transformers configuration: of a folder, or of a model with these sizes (Llama unless they name another).

    raises   ValueError when config.json cannot be read, its values or sizes make no model, or the rows of a multimodal
             folder's tokens are not known
    """
    from transformers import AutoConfig

    if weights is not None and is_gguf_name(weights):
        return gguf_settings(weights)
    settings = {"model_type": "llama", **sizes} if weights is None else language_settings(weights)
    try:
        if settings is not None:
            return AutoConfig.for_model(**settings)
        return AutoConfig.from_pretrained(str(weights), local_files_only=True)
    except Exception as error:  # transformers raises many types for values that do not fit
        what = "these sizes make no model" if weights is None else f"{weights}: config.json cannot be read"
        raise ValueError(f"{what}: {said(error)}") from None


def context_length(settings: Any) -> int | None:
    """The context length of a transformers configuration, tokens; None for families without a limit (Mamba)."""
    return getattr(settings, "max_position_embeddings", None)


def read_causal_lm(folder: Path, dtype: torch.dtype | str, extra: Mapping[str, Any]) -> tuple[Any, str]:
    """The model of a folder, and the prefix that was removed from all names ("" for none). Of a multimodal folder the
    language model without the tokens for media (_llava_folder).

    raises   ValueError when weights are missing, truncated, or do not fit the model of config.json
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    if is_gguf_name(folder):
        return read_gguf(folder, dtype, extra), ""
    if os.environ.get("LOCAL_RANK", "0") != "0" or not sys.stderr.isatty():
        logging.disable_progress_bar()  # only rank 0 shows one, and not in a log file
    whole = llava_settings(folder)
    config = {} if whole is None else {"config": AutoConfig.for_model(**whole)}
    try:
        with quiet_transformers(whole is not None):  # a table of the projector's tensors
            lm, found, prefix = read_folder(AutoModelForCausalLM, folder, dtype=dtype, **extra, **config)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{folder}: the language model cannot be read: {reason}") from None
    known = (PROJECTOR,) if whole is not None else ()
    found["unexpected"] = [name for name in found["unexpected"] if not is_buffer(name) and not _has(name, known)]
    wrong = [f"  {kind}: {', '.join(names[:8])} ({len(names)} in all)" for kind, names in found.items() if names]
    if wrong:
        raise ValueError(f"{folder} does not fill the model its config.json describes:\n" + "\n".join(wrong))
    if whole is not None and (own := language_settings(folder)) is not None:
        lm.resize_token_embeddings(own["vocab_size"])
    return lm, prefix


def with_gradient_of_all_rows(lm: Any) -> Any:
    """The model, whose embedding is trained whole. A padding id of -1, which configurations of the first LLaMA have, is
    no row, and torch would take it for the last one, which then has no gradient."""
    pad, embedding = getattr(lm.config, "pad_token_id", None), lm.get_input_embeddings()
    if pad is not None and pad < 0 and hasattr(embedding, "padding_idx"):
        embedding.padding_idx = None
    return lm


def _has(name: str, parts: Iterable[str]) -> bool:
    return any(part in name for part in parts)
