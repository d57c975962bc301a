"""Shards of safetensors, written one by one and finished whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from chatbridge.cli.weights.headers import Entry
from chatbridge.common.safe_files import file_lock, replace_text

SHARD_BYTES = 5_000_000_000


def write_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Under another name first, so that a file of this name is always whole; one process at a time."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with file_lock(path):
        save_file(dict(tensors), part, metadata={"format": "pt"})
        os.replace(part, path)


def write_json(content: object, path: Path) -> None:
    replace_text(path, json.dumps(content, indent=2) + "\n")


def shards(sizes: Mapping[str, int], limit: int = SHARD_BYTES) -> list[list[str]]:
    """Names in their order, in groups of at most `limit` bytes (one larger tensor makes a group of its own)."""
    groups: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if groups[-1] and held + size > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups


def shard_names(groups: Sequence[Sequence[str]]) -> list[str]:
    """model.safetensors, or model-00001-of-00003.safetensors and so on."""
    if len(groups) == 1:
        return ["model.safetensors"]
    return [f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]


def write_index(folder: Path, groups: Sequence[Sequence[str]], num_bytes: int) -> None:
    """What transformers finds the shards through; one file needs none."""
    if len(groups) > 1:
        files = zip(shard_names(groups), groups, strict=True)
        table = {name: file for file, names in files for name in names}
        write_json(
            {"metadata": {"total_size": num_bytes}, "weight_map": table}, folder / "model.safetensors.index.json"
        )


def plan_fingerprint(*plans: Mapping[str, Entry]) -> str:
    """Says whether two runs are about the same input files: names, shapes, types, sizes and times of change."""
    digest = hashlib.sha256()
    for plan in plans:
        for name, entry in plan.items():
            digest.update(f"{name} {entry.shape} {entry.dtype}\n".encode())
        for file in sorted({entry.file for entry in plan.values()}):
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
