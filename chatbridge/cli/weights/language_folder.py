"""`weights convert SRC FOLDER --part causal_lm --base LLAMA`: the language model of TextBind's file as a folder of
transformers, without the rows of added tokens, which run.init_from reads from the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.cli.export_parts import is_setting
from chatbridge.cli.weights.shard_writer import split_into_shards, write_index, write_json, write_safetensors
from chatbridge.models.importers.textbind_names import LM, TOKENS, language_names, parts_of, wrapper_of
from chatbridge.models.language._causal_lm_folder import is_buffer
from chatbridge.models.lazy_tensors import LazyTensors

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ROWS = ("embed_tokens.weight", "lm_head.weight")


def write_language_folder(source: LazyTensors, target: Path, base: Path, dtype: torch.dtype | None = None) -> int:
    """Write shards with their index, one at a time, and the settings and tokenizer of `base`.

    base     folder of the language model that was trained, Llama-2-7b-chat
    dtype    None: that of the file
    returns  the number of tensors
    raises   ValueError for a file without a language model, one that does not fit the base, or a target that exists
    """
    if target.exists() or target.suffix:
        raise ValueError(f"{target}: a folder is written; give a name without an ending that does not exist yet")
    names = _names(source)
    rows = len(_base_rows(base, source, names))
    target.mkdir(parents=True)

    def tensor(name: str) -> Tensor:
        value = source[names[name]]
        value = value[:rows] if name.endswith(_ROWS) else value
        return value.to(dtype or value.dtype).clone().contiguous()

    sizes = {name: source.headers[full].num_values * (dtype or source.headers[full].dtype).itemsize
             for name, full in names.items()}  # fmt: skip
    split = split_into_shards(sizes)
    for file, own in split.filename_to_tensors.items():
        write_safetensors({name: tensor(name) for name in own}, target / file)
    write_index(target, split)
    for file in sorted(base.iterdir()):
        if file.is_file() and is_setting(file.name):
            shutil.copyfile(file, target / file.name)
    if dtype is not None:
        config = _config(base)
        write_json({**config, "torch_dtype": str(dtype).removeprefix("torch.")}, target / "config.json")
    return len(names)


def _names(source: LazyTensors) -> dict[str, str]:
    """Name in a folder of transformers -> name in the file. raises ValueError for a file without a language model"""
    prefix = wrapper_of(source.headers) or ""
    own = parts_of(source.headers).get(LM)
    if own is None:
        raise ValueError(f"{source.path} has no language model: it is a result of stage 1")
    own = {name: header for name, header in own.items() if not is_buffer(name)}
    language_names(own)
    return {name.removeprefix(f"{LM}."): prefix + name for name in own}


def _base_rows(base: Path, source: LazyTensors, names: dict[str, str]) -> range:
    """The rows of the base's vocabulary. raises ValueError when the base is not a folder of this language model"""
    config = _config(base)
    have, wide = source.headers[names["model.embed_tokens.weight"]].shape
    rows, width = int(config.get("vocab_size", 0)), config.get("hidden_size")
    if (rows + len(TOKENS), width) != (have, wide):
        raise ValueError(
            f"{base} has {rows} rows of {width} channels, and the file {have} of {wide}: those of the base and "
            f"{', '.join(TOKENS)}; --base is the language model that was trained (the released one: Llama-2-7b-chat)"
        )
    return range(rows)


def _config(base: Path) -> dict[str, Any]:
    try:
        content = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--base {base} has no readable config.json ({error}); give a model folder") from None
    if not isinstance(content, dict):
        raise ValueError(f"--base {base}: its config.json is not a mapping")
    return content
