"""Write safetensors files and the index of their shards, each complete or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from torch import Tensor

from chatbridge.common.safe_files import file_lock, replace_text, usual_mode
from chatbridge.models.tensor_headers import TensorHeader

SHARD_BYTES = 5_000_000_000
INDEX_FILE = "model.safetensors.index.json"  # where transformers looks for shards


def write_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write under a temporary name, then rename: a file of this name is always complete. One process at a time."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with file_lock(path):
        save_file(dict(tensors), part, metadata={"format": "pt"})
        usual_mode(part)
        os.replace(part, path)


def write_json(content: object, path: Path) -> None:
    """Replace a JSON file."""
    replace_text(path, json.dumps(content, indent=2) + "\n")


def split_into_shards(
    num_bytes: Mapping[str, int], limit: int = SHARD_BYTES, pattern: str = "model{suffix}.safetensors"
) -> StateDictSplit:
    """Assign tensors to files of at most `limit` bytes, in their order; a larger tensor gets a file of its own.

    The names are those of transformers: model.safetensors, or model-00001-of-00003.safetensors and so on.
    """
    return split_state_dict_into_shards_factory(
        dict(num_bytes),
        get_storage_size=int,
        filename_pattern=pattern,
        max_shard_size=limit,
    )


def write_index(folder: Path, split: StateDictSplit, name: str = INDEX_FILE) -> None:
    """Write the index through which transformers finds the shards; a single file needs none."""
    if split.is_sharded:
        write_json({"metadata": split.metadata, "weight_map": split.tensor_to_filename}, folder / name)


def inputs_fingerprint(*inputs: Mapping[str, TensorHeader]) -> str:
    """Return a digest of names, shapes, types, file sizes and modification times: equal for the same input files."""
    digest = hashlib.sha256()
    for headers in inputs:
        for name, header in headers.items():
            digest.update(f"{name} {header.shape} {header.dtype}\n".encode())
        for file in sorted({header.file for header in headers.values()}):
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
