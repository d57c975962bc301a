"""Language models from one GGUF file, the format of llama.cpp, through the loader of transformers.

The file has the sizes, the weights (often in 4 to 8 bits), the tokenizer and the chat template. transformers turns the
weights into fp32 values; the model here is a plain one of the same family, so it trains, saves and exports like one of
a folder. Needs the package gguf.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from chatbridge.common.errors import Problem
from chatbridge.common.extras import need
from chatbridge.common.gguf_kind import GGUF, is_gguf
from chatbridge.common.quiet_transformers import quiet_transformers
from chatbridge.config.constraints import missing_path
from chatbridge.models.hf_folder import said

PURPOSE = "a language model from a GGUF file"


def gguf_problems(name: str, path: Path) -> Iterator[Problem]:
    """Problems of the setting `name`, which holds a GGUF file."""
    if (missing := missing_path(path, "file")) is not None:
        yield Problem(name, missing.message, nearest=missing.nearest, hint=missing.hint, is_absent=missing.is_absent)
        return
    try:
        gguf_settings(path)
    except (ValueError, ImportError) as error:
        yield Problem(name, str(error))


def gguf_settings(path: Path) -> Any:
    """The transformers configuration that the header of a file describes. No weights are read.

    raises   ValueError when the file is not GGUF, is truncated, or transformers does not read its family
             ImportError when the package gguf is not installed
    """
    stat = path.stat()
    return _settings(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _settings(path: Path, size: int, changed_ns: int) -> Any:
    need("gguf", PURPOSE)
    if not is_gguf(path):
        raise ValueError(f"{path} is not a GGUF file: it does not begin with {GGUF!r}")
    from transformers import AutoConfig

    try:
        with quiet_transformers(True):
            settings = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
    except Exception as error:  # the reader fails in many ways on a damaged file
        raise ValueError(f"{path}: cannot be read as GGUF: {said(error)}") from None
    return _plain(settings)


def read_gguf(path: Path, extra: Mapping[str, Any]) -> Any:
    """The model of a file with dequantised fp32 weights.

    extra    arguments of `from_config`, such as attn_implementation
    raises   ValueError when the file is truncated or its tensors do not fill the model
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    need("gguf", PURPOSE)
    logging.disable_progress_bar()
    try:
        with quiet_transformers(True):
            lm, found = AutoModelForCausalLM.from_pretrained(
                str(path.parent),
                gguf_file=path.name,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:
        raise ValueError(f"{path}: the language model cannot be read: {said(error)}") from None
    wrong = [
        f"  {kind}: {', '.join(map(str, list(names)[:8]))} ({len(names)} in all)"
        for kind, names in found.items()
        if names
    ]
    if wrong:
        raise ValueError(f"{path} does not fill the model its header describes:\n" + "\n".join(wrong))
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(_plain(lm.config), **extra)
    plain.load_state_dict(lm.state_dict(), assign=True)
    plain.tie_weights()
    for name, buffer in lm.named_buffers():
        owner, _, leaf = name.rpartition(".")
        plain.get_submodule(owner)._buffers[leaf] = buffer
    plain.generation_config = lm.generation_config
    return plain.eval()


def _plain(settings: Any) -> Any:
    """The configuration without the note that the weights came from a GGUF file."""
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config
    return settings
