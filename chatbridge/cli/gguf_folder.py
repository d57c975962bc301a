"""A GGUF file as a folder of transformers: settings and tokenizer for every export, weights for `weights convert`."""

from __future__ import annotations

from pathlib import Path

import torch

from chatbridge.cli.weights.shard_writer import split_into_shards, write_index, write_json, write_safetensors
from chatbridge.common.file_kind import read_json_object
from chatbridge.common.gguf_header import read_header
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.models.language._gguf_file import gguf_settings, own_dtype, read_gguf
from chatbridge.models.language._sharded_files import stored_once


def write_gguf_settings(file: Path, folder: Path, dtype: torch.dtype | None, has_tokenizer: bool = True) -> None:
    """Write config.json, generation_config.json and the tokenizer of a file into a folder that exists.

    dtype          of the tensors beside them; None: that of the file
    has_tokenizer  False: another tokenizer is put there
    raises         ValueError or ConfigError when the file cannot be read
    """
    from transformers import GenerationConfig

    settings = gguf_settings(file)
    settings.save_pretrained(folder)
    config = read_json_object(folder / "config.json")
    kept = {key: value for key, value in config.items() if key != "_name_or_path"}
    write_json({**kept, "dtype": str(dtype or own_dtype(read_header(file))).removeprefix("torch.")},
               folder / "config.json")  # fmt: skip
    GenerationConfig.from_model_config(settings).save_pretrained(folder)
    if has_tokenizer:
        Tokenizer.from_pretrained(file).inner.save_pretrained(folder)


def write_gguf_folder(file: Path, folder: Path, dtype: torch.dtype | None) -> tuple[int, int]:
    """Write the dequantised model of a file as a folder that transformers reads.

    dtype    None: that of a file in half precision, otherwise fp32
    returns  the number of tensors and their bytes
    raises   ValueError when the file cannot be read, or the folder exists
    """
    if folder.exists() or folder.suffix:
        raise ValueError(f"{folder}: a folder is written; give a name without an ending that does not exist yet")
    lm = read_gguf(file, dtype or "auto", {})
    tensors = {name: value.detach() for name, value in stored_once(lm).items()}
    folder.mkdir(parents=True)
    write_gguf_settings(file, folder, dtype)
    sizes = {name: value.numel() * value.element_size() for name, value in tensors.items()}
    split = split_into_shards(sizes)
    for name, own in split.filename_to_tensors.items():
        write_safetensors({one: tensors[one].clone().contiguous() for one in own}, folder / name)
    write_index(folder, split)
    return len(tensors), sum(sizes.values())
