"""Language models from one GGUF file, the format of llama.cpp, through the loader of transformers.

The file has the sizes, the weights (often in 4 to 8 bits), the tokenizer and the chat template. transformers turns the
weights into values of the wanted dtype, one tensor after the other; the model here is a plain one of the same family,
so it trains, saves and exports like one of a folder. Needs the package gguf.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from chatbridge.common.errors import Problem
from chatbridge.common.extras import need
from chatbridge.common.gguf_header import GGUFHeader, read_header
from chatbridge.common.quiet_transformers import quiet_transformers
from chatbridge.config.constraints import missing_path
from chatbridge.models.hf_folder import COMPARED, said
from chatbridge.models.language._gguf_settings import PLAIN, ROPE_FREQS, header_faults, settings_of

PURPOSE = "a language model from a GGUF file"


def gguf_problems(name: str, path: Path, expected: Mapping[str, Any] | None = None) -> Iterator[Problem]:
    """Problems of the setting `name`, which holds a GGUF file. expected: sizes that it must have (architecture)"""
    if (missing := missing_path(path, "file")) is not None:
        yield replace(missing, path=name)
        return
    try:
        need("gguf", PURPOSE)
        header = read_header(path)
        faults = list(header_faults(header))
        settings = None if faults else gguf_settings(path)
    except (ValueError, ImportError) as error:
        yield Problem(name, str(error))
        return
    for fault in faults:
        yield Problem(name, f"{path} {fault}")
    for key in COMPARED if expected else ():
        found, wanted = getattr(settings, key, None), (expected or {}).get(key)
        if None not in (found, wanted) and found != wanted:
            message = f"{path} has {key} {found}, this configuration is for {wanted} (architecture.{key})"
            hint = "give a model of that size, or choose another file of configs/models"
            yield Problem(name, message, hint=hint)


def gguf_settings(path: Path) -> Any:
    """The transformers configuration that the header of a file describes, a copy of its own. No weights are read.

    raises   ValueError when the file is not GGUF, is truncated, not a language model, or transformers does not read it
             ImportError when the package gguf is not installed
    """
    need("gguf", PURPOSE)
    header = read_header(path)
    stat = path.stat()
    return deepcopy(_settings(header.path, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=8)
def _settings(path: Path, size: int, changed_ns: int) -> Any:
    header = read_header(path)
    if faults := list(header_faults(header)):
        raise ValueError(f"{path} {faults[0]}")
    return settings_of(header)


def read_gguf(path: Path, dtype: torch.dtype | str, extra: Mapping[str, Any]) -> Any:
    """The model of a file with dequantised weights.

    dtype    of the weights; "auto": that of a file in half precision, otherwise fp32
    extra    arguments of `from_config`, such as attn_implementation
    raises   ValueError when the file is truncated or its tensors do not fill the model
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    settings, header = gguf_settings(path), read_header(path)
    if not isinstance(dtype, torch.dtype):
        dtype = own_dtype(header)
    logging.disable_progress_bar()
    try:
        with quiet_transformers(True):
            loader: Any = AutoModelForCausalLM  # with output_loading_info it returns a pair
            lm, found = loader.from_pretrained(
                str(path.parent), gguf_file=path.name, local_files_only=True, config=deepcopy(settings), dtype=dtype,
                output_loading_info=True, **_unpacked(header),
            )  # fmt: skip
    except Exception as error:
        raise ValueError(f"{path}: the language model cannot be read: {said(error)}") from None
    wrong = [_line(kind, list(map(str, names))) for kind, names in found.items() if names]
    if left := unread(header, lm.state_dict()):
        wrong.append(_line("not of this model", left))
    if wrong:
        raise ValueError(f"{path} does not fill the model its header describes:\n" + "\n".join(wrong))
    return _plain(lm, settings, extra)


def own_dtype(header: GGUFHeader) -> torch.dtype:
    """bf16 or fp16 for a file that has its matrices so, otherwise fp32."""
    halves = {1: torch.float16, 30: torch.bfloat16}
    kinds = {tensor.kind for tensor in header.tensors.values() if len(tensor.shape) > 1}
    return halves.get(next(iter(kinds)), torch.float32) if len(kinds) == 1 else torch.float32


def unread(header: GGUFHeader, names: Iterable[str]) -> list[str]:
    """Tensors of a file that no tensor of the model is made of: transformers leaves them out without a word."""
    table = name_table(header)
    if table is None:
        return []
    own = {table.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}
    return [name for name in header.tensors if name not in own and name != ROPE_FREQS]


def name_table(header: GGUFHeader) -> Any:
    """The package's table of names, whose `get_name` turns transformers' name into the file's. None for families whose
    tensors are joined or divided when they are read."""
    if header.family not in PLAIN:
        return None
    gguf: Any = need("gguf", PURPOSE)
    family = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == header.family)
    return gguf.get_tensor_name_map(family, header.of_family("block_count"))


def _line(kind: str, names: list[str]) -> str:
    return f"  {kind}: {', '.join(names[:8])} ({len(names)} in all)"


def _unpacked(header: GGUFHeader) -> dict[str, Any]:
    """The argument with which transformers dequantises families that it would otherwise keep packed."""
    if header.family in PLAIN:
        return {}
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _plain(lm: Any, settings: Any, extra: Mapping[str, Any]) -> Any:
    """A model of the same family with the same tensors, without the marks of GGUF that forbid training and saving."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(settings, **extra)
    plain.load_state_dict(lm.state_dict(), assign=True)
    plain.tie_weights()
    for name, buffer in lm.named_buffers():
        owner, _, leaf = name.rpartition(".")
        plain.get_submodule(owner)._buffers[leaf] = buffer
    plain.generation_config = lm.generation_config
    return plain.eval()
