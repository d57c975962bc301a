"""Names, shapes and types of the tensors in weight files, without reading the tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chatbridge.common.file_kind import read_json_object
from chatbridge.models.component import State
from chatbridge.models.weight_files import PICKLED, check_file, read_state

INDEX = ".index.json"
FOLDER_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
Choose = Callable[[Iterable[str]], Iterable[str]]
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


@dataclass(frozen=True)
class TensorHeader:
    """Shape and type of one tensor, and the file that contains it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path

    @property
    def num_values(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def num_bytes(self) -> int:
        return self.num_values * self.dtype.itemsize

    def placeholder(self) -> Tensor:
        """Return a tensor [...] of this shape without memory (one expanded zero), for code that reads only shapes."""
        return torch.zeros((), dtype=self.dtype).expand(self.shape)


def read_headers(path: Path | str, choose: Choose | None = None) -> dict[str, TensorHeader]:
    """Return tensor name -> header of a weights file, an index of shards, or a Hugging Face model folder.

    choose   the names to read of an index of shards, given all; shards with none of them need not be there. None: all
    raises   ValueError: missing file, placeholder path, truncated, not weights, missing shard, code in a pickle
    """
    path = weights_in_folder(Path(path)) if Path(path).is_dir() else Path(path)
    if path.name.endswith(INDEX):
        return _of_shards(path, choose)
    check_file(path)
    if path.suffix == ".safetensors":
        return _of_safetensors(path)
    return {name: TensorHeader(tuple(value.shape), value.dtype, path) for name, value in read_state(path).items()}


def weights_in_folder(folder: Path) -> Path:
    """Return the weights file or the index of shards in a model folder: under the names of transformers, or the only
    weights file in it. Raises ValueError without one."""
    found = next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)
    if found is not None:
        return found
    endings = (*PICKLED, ".safetensors")
    single = [path for path in sorted(folder.iterdir()) if path.suffix in endings and path.is_file()]
    single = [path for path in single if "zero_pp_rank_" not in path.name]  # a part of DeepSpeed's
    if len(single) == 1:
        return single[0]
    expected = f"expected one of {', '.join(FOLDER_FILES)} in it"
    raise ValueError(f"{folder}: a folder without weights; {expected}{deepspeed_hint(folder)}")


def deepspeed_hint(folder: Path) -> str:
    """Return the next step as the end of a message for a folder with the parts of DeepSpeed's ranks; "" for others."""
    signs = ("zero_to_fp32.py", "global_step*", "*zero_pp_rank_*", "mp_rank_*_model_states.pt")
    if not (folder.is_dir() and any(any(folder.glob(sign)) for sign in signs)):
        return ""
    script = "zero_to_fp32.py, which DeepSpeed puts beside global_step*"
    return f"; it holds the parts of DeepSpeed's ranks: join them with {script}; it writes one file, which can be given"


def read_tensors(path: Path) -> State:
    """Return all tensors of a weights file, an index of shards or a model folder by name, memory-mapped.

    raises   ValueError as `read_headers` does
    """
    state: State = {}
    for file in files_of(path):
        own = read_state(file)
        if both := sorted(own.keys() & state.keys()):
            raise ValueError(f"{file}: has {both[0]}, which another shard has too")
        state |= own
    return state


def files_of(path: Path) -> list[Path]:
    """Return the files with the tensors of a file, an index or a folder. Raises ValueError for a missing shard."""
    path = weights_in_folder(path) if path.is_dir() else path
    return [path.parent / name for name in shards_of(path)] if path.name.endswith(INDEX) else [path]


def shards_of(index: Path, choose: Choose | None = None) -> dict[str, list[str]]:
    """Return file name -> tensor names, according to an index of shards.

    choose   as of `read_headers`
    raises   ValueError if the index cannot be read or a shard is missing
    """
    check_file(index)
    try:
        shards: dict[str, list[str]] = {}
        for name, file in read_json_object(index)["weight_map"].items():
            shards.setdefault(os.fspath(file), []).append(name)  # raises TypeError for what is not a name
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{index}: not an index of shards (a JSON mapping with weight_map)") from None
    if choose is not None:
        wanted = set(choose(name for names in shards.values() for name in names))
        shards = {file: own for file, names in shards.items() if (own := [name for name in names if name in wanted])}
    if missing := sorted(file for file in shards if not (index.parent / file).is_file()):
        more = f" and {len(missing) - 8} more" if missing[8:] else ""
        what = "shards" if choose is None else "shards that are needed"
        hint = (
            "" if choose is None else f"; get them with weights fetch OWNER/NAME {index.parent} --only {missing[0]} ..."
        )
        raise ValueError(
            f"{index.parent}: {len(missing)} of {len(shards)} {what} are missing: {', '.join(missing[:8])}{more}{hint}"
        )
    return shards


def open_safetensors(path: Path, framework: str = "pt") -> Any:
    """Return safetensors' memory-mapped reader of a file. Raises ValueError if it is truncated or damaged."""
    try:
        return safe_open(path, framework)
    except (SafetensorError, OSError) as error:
        reason = str(error).rpartition(": ")[2]
        raise ValueError(
            f"{path}: cannot be read as safetensors ({reason}); the file of {readable_size(path.stat().st_size)} is "
            "truncated, damaged or of another kind"
        ) from None


def readable_size(num_bytes: float) -> str:
    """Return "13.5 GB" for 13,500,000,000; decimal units, as download pages use them."""
    for unit in ("B", "KB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def _of_shards(index: Path, choose: Choose | None = None) -> dict[str, TensorHeader]:
    headers: dict[str, TensorHeader] = {}
    for file, names in shards_of(index, choose).items():
        found = read_headers(index.parent / file)
        if absent := [name for name in names if name not in found]:
            raise ValueError(
                f"{index.parent / file}: lacks {len(absent)} tensors of the index, for example {absent[0]}"
            )
        headers |= found if choose is None else {name: found[name] for name in names}
    return headers


def _of_safetensors(path: Path) -> dict[str, TensorHeader]:
    with open_safetensors(path, "numpy") as file:  # torch would map the whole file, which may exceed the memory
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 it is no dict
    try:
        return {
            name: TensorHeader(tuple(one.get_shape()), _DTYPES[one.get_dtype()], path) for name, one in slices.items()
        }
    except KeyError as error:
        raise ValueError(f"{path}: tensors of type {error} are not supported; known are {', '.join(_DTYPES)}") from None
