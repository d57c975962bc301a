"""Tensors by name out of .safetensors, .pth, .pt and .bin files, with a message a person can act on when they are not.

Pickled files are read with `weights_only=True`, which refuses anything but tensors and plain containers; nothing in
them is executed.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.file_kind import HEAD, other_kind
from chatbridge.models.component import State

FILE_SETTINGS = ("weights", "norm_weights", "tokenizer")  # settings of the parts of a model that name files
PICKLED = (".pth", ".pt", ".bin", ".ckpt")
WRAPPERS = ("model", "state_dict", "module", "model_state_dict")  # keys below which files keep their tensors
PREFIXES = ("module.", "_orig_mod.", "model.", "state_dict.")  # what DDP, torch.compile and trainers put before names


def read_state(path: Path | str) -> State:
    """All tensors of a file by name, without the wrapper the released files have around them.

    raises   ValueError (missing, truncated, placeholder, not a weights file, holds code)
    """
    path = Path(path)
    check_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in PICKLED:
        raise ValueError(f"{path}: unknown kind of weights file; known are .safetensors, {', '.join(PICKLED)}")
    content = read_pickle(path)
    while inner := _wrapped(content):
        content = inner
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: holds no tensors by name, so it is not a file of weights")
    if deeper := [str(key) for key, value in content.items() if _holds_tensors(value)]:
        raise ValueError(
            f"{path}: has tensors beside groups of tensors ({', '.join(deeper[:5])}); no released file does"
        )
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _wrapped(content: Any) -> dict[str, Any] | None:
    """The dictionary inside a wrapper; wrappers may be nested, as {"state_dict": {"model": {...}}}."""
    if not isinstance(content, dict):
        return None
    return next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict) and content[key]), None)


def without_prefix(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items()}


def prefixes_of(names: Iterable[str]) -> list[str]:
    """The common prefix of a file's names, piece by piece: "module.", then "module.model."; a part's own names may
    begin like a wrapper's."""
    names = list(names)
    found, prefix = [], ""
    while names and (one := next((one for one in PREFIXES if all(name.startswith(one) for name in names)), None)):
        prefix += one
        found.append(prefix)
        names = [name[len(one) :] for name in names]
    return found


def _holds_tensors(value: Any) -> bool:
    """Whether a container, not itself a tensor, has tensors in it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(isinstance(one, Tensor) or _holds_tensors(one) for one in inner)


def check_file(path: Path) -> None:
    """raises ValueError when the file is missing, empty, or a stand-in for a file that was not downloaded"""
    if "???" in str(path) or "/path/to/" in str(path):
        raise ValueError(f"{path}: this is a placeholder; put the path of the weights file there")
    if not path.is_file():
        what = "is a folder, expected one weights file" if path.is_dir() else "there is no such file"
        raise ValueError(f"{path}: {what}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    with path.open("rb") as file:
        start = file.read(HEAD)
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: this is a git-lfs pointer, not the weights; run `git lfs pull` where it came from")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path}: this is a web page, not weights; the download did not deliver the file")
    what = None if start.startswith(b"PK") else other_kind(start, path)  # a zip is torch's own format
    if what is not None:
        raise ValueError(f"{path}: is not weights, it {what}")


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be read as safetensors, it may be truncated ({error})") from None


def read_pickle(path: Path) -> Any:
    """The content of a .pth/.pt/.bin file, memory-mapped where the format allows it. Code in it is refused.

    raises   ValueError
    """
    check_file(path)
    zipped = zipfile.is_zipfile(path)
    if not zipped and path.open("rb").read(2) == b"PK":
        raise ValueError(f"{path}: the file is truncated (its table of contents at the end is missing)")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        holds = f"it holds {found.group(1)}" if found else "damaged, or it holds code"
        raise ValueError(f"{path}: refused, it is no plain file of tensors ({holds}; code is never run)") from None
    except Exception as error:  # bytes that are no pickle make the reader stumble in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: cannot be read; it may be truncated, or no weights at all ({reason})") from None
