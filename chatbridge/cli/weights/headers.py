"""Names, shapes and types of the tensors in weight files, without reading the tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from chatbridge.common.file_kind import read_json_object
from chatbridge.models.weight_files import check_file, read_state

INDEX = ".index.json"
FOLDER_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path

    @property
    def num_values(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def num_bytes(self) -> int:
        return self.num_values * self.dtype.itemsize

    def stand_in(self) -> Tensor:
        """A tensor of this shape without memory (one zero, stretched), for code that asks for shapes only."""
        return torch.zeros((), dtype=self.dtype).expand(self.shape)


def read_header(path: Path | str) -> dict[str, Entry]:
    """The tensors of a weights file, a sharded index, or a Hugging Face model folder.

    raises   ValueError: no such file, a placeholder, truncated, no weights, a missing shard, code in a pickle
    """
    path = whole_model(Path(path)) if Path(path).is_dir() else Path(path)
    if path.name.endswith(INDEX):
        return _of_shards(path)
    check_file(path)
    return _of_safetensors(path) if path.suffix == ".safetensors" else _of_pickle(path)


def whole_model(folder: Path) -> Path:
    """The file or index in a Hugging Face model folder that all weights are found through.

    raises   ValueError when it has none
    """
    found = next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)
    if found is None:
        raise ValueError(f"{folder}: a folder without weights; expected one of {', '.join(FOLDER_FILES)} in it")
    return found


def files_of(path: Path) -> list[Path]:
    """The files that hold the tensors of a file, an index or a folder. raises ValueError for a missing shard"""
    path = whole_model(path) if path.is_dir() else path
    return [path.parent / name for name in shards_of(path)] if path.name.endswith(INDEX) else [path]


def shards_of(index: Path) -> dict[str, list[str]]:
    """File name -> the tensors it is said to hold.

    raises   ValueError when the index cannot be read or a shard is missing
    """
    check_file(index)
    try:
        table = read_json_object(index)["weight_map"]
        shards: dict[str, list[str]] = {}
        for name, file in table.items():
            shards.setdefault(file, []).append(name)
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{index}: this is no index of shards (a JSON mapping with weight_map)") from None
    if missing := [file for file in shards if not (index.parent / file).is_file()]:
        raise ValueError(
            f"{index.parent}: {len(missing)} of {len(shards)} shards are missing: {', '.join(missing[:5])}"
        )
    return shards


def _of_shards(index: Path) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for file, names in shards_of(index).items():
        found = read_header(index.parent / file)
        if lost := [name for name in names if name not in found]:
            raise ValueError(
                f"{index.parent / file}: the index promises {lost[0]} ({len(lost)} in all), it is not there"
            )
        entries |= found
    return entries


def _of_safetensors(path: Path) -> dict[str, Entry]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise ValueError(f"{path}: cannot be read as safetensors, it may be truncated or another kind of file")
        try:
            table = json.loads(file.read(length))
            return dict(_entries(path, table, size - 8 - length))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path}: cannot be read as safetensors, its table of contents is damaged") from None


def _entries(path: Path, table: dict, available: int) -> Iterator[tuple[str, Entry]]:
    needed = max((entry["data_offsets"][1] for name, entry in table.items() if name != "__metadata__"), default=0)
    if needed > available:
        raise ValueError(f"{path}: truncated, {needed - available} of {needed} bytes of tensors are missing")
    for name, entry in table.items():
        if name != "__metadata__":
            yield name, Entry(tuple(entry["shape"]), _TYPES[entry["dtype"]], path)


def _of_pickle(path: Path) -> dict[str, Entry]:
    """Memory-mapped where the format allows it, so that only the pickle of names is read."""
    return {name: Entry(tuple(value.shape), value.dtype, path) for name, value in read_state(path).items()}


def readable_size(num_bytes: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
