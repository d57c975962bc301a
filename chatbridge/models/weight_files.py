"""Read tensors by name from .safetensors, .pth, .pt and .bin files.

Pickled files are read with `weights_only=True`, which refuses anything but tensors and plain containers; no code in
them is executed. Settings objects of a few libraries become plain values (`pickled_settings`).
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.file_kind import HEAD, holds_tensors, other_kind
from chatbridge.models.component import State
from chatbridge.models.pickled_settings import plain_settings

FILE_SETTINGS = ("weights", "norm_weights", "tokenizer", "refiner")  # settings of the parts of a model that name files
PICKLED = (".pth", ".pt", ".bin", ".ckpt")
WRAPPERS = ("model", "state_dict", "module", "model_state_dict")  # keys under which files store their tensors
PREFIXES = ("module.", "_orig_mod.", "model.", "state_dict.")  # added to names by DDP, torch.compile and trainers


def read_state(path: Path | str) -> State:
    """All tensors of a file by name, without the wrapper dictionaries of released files.

    raises   ValueError when the file is missing, a placeholder, truncated, not a weights file, or contains code
    """
    path = Path(path)
    check_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in PICKLED:
        known = f"expected .safetensors, {', '.join(PICKLED)}, or .gguf for a language model"
        raise ValueError(f"{path}: unknown kind of weights file; {known}")
    content = read_pickle(path)
    while inner := _wrapped(content):
        content = inner
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: contains no tensors by name, so it is not a weights file")
    if deeper := [str(key) for key, value in content.items() if _holds_tensors(value)]:
        raise ValueError(
            f"{path}: mixes tensors and groups of tensors ({', '.join(deeper[:5])}); expected one flat dictionary"
        )
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if strange := [repr(key) for key in state if not isinstance(key, str)]:
        raise ValueError(f"{path}: its tensors have no names but {', '.join(strange[:5])}, so it is not a weights file")
    return state


def _wrapped(content: Any) -> dict[str, Any] | None:
    """The dictionary inside a wrapper, or None; wrappers may be nested: {"state_dict": {"model": {...}}}."""
    if not isinstance(content, dict):
        return None
    return next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict) and content[key]), None)


def without_prefix(state: State, prefix: str) -> State:
    """The same tensors with `prefix` removed from their names."""
    return {name.removeprefix(prefix): value for name, value in state.items()}


def prefixes_of(names: Iterable[str]) -> list[str]:
    """The common prefixes of a file's names, shortest first: "module.", then "module.model.".

    All are candidates, because the names of a component may themselves begin with "model.".
    """
    names = list(names)
    found, prefix = [], ""
    while names and (one := next((one for one in PREFIXES if all(name.startswith(one) for name in names)), None)):
        prefix += one
        found.append(prefix)
        names = [name[len(one) :] for name in names]
    return found


def _holds_tensors(value: Any) -> bool:
    """Whether a container has tensors in it, at any depth."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(isinstance(one, Tensor) or _holds_tensors(one) for one in inner)


def check_file(path: Path) -> None:
    """Check that a path can be a weights file.

    raises   ValueError when it is missing, empty, a placeholder, or a stand-in for a file that was not downloaded
    """
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
        raise ValueError(f"{path}: this is a git-lfs pointer, not the weights; run `git lfs pull` in its repository")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path}: this is a web page, not weights; the download did not deliver the file")
    is_ours = holds_tensors(start) or start.startswith(b"PK")  # a zip is torch's own format
    what = None if is_ours else other_kind(start, path)
    if what is not None:
        raise ValueError(f"{path}: is not weights, it {what}")


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be read as safetensors, it may be truncated ({error})") from None


def mapped_tensors(path: Path) -> State:
    """All tensors [...] of a .pth/.pt/.bin file by name, mapped into memory: a value is read where it is used.

    raises   ValueError as `read_state` does, and for the format of torch before 1.6, which can only be read whole
    """
    if not zipfile.is_zipfile(path):
        check_file(path)
        raise ValueError(f"{path.name} is truncated, or has the format of torch before 1.6")
    return read_state(path)


def _is_torchscript(path: Path) -> bool:
    """Whether a zip file is a program of TorchScript: it has the pickle of its constants."""
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def read_pickle(path: Path) -> Any:
    """The content of a .pth/.pt/.bin file, memory-mapped where the format allows it.

    raises   ValueError when the file is missing or damaged, or contains code
    """
    check_file(path)
    zipped = zipfile.is_zipfile(path)
    if not zipped and path.open("rb").read(2) == b"PK":
        raise ValueError(f"{path}: the file is truncated (its table of contents at the end is missing)")
    if zipped and _is_torchscript(path):
        raise ValueError(
            f"{path}: is a program of TorchScript, as OpenAI publishes CLIP; code is never run here. Where you trust "
            'it, write its tensors: torch.save(torch.jit.load("FILE", "cpu").state_dict(), "tensors.pt")'
        )
    try:
        with plain_settings(path) if zipped else nullcontext():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        holds = f"it contains {found.group(1)}" if found else "damaged, or it contains code"
        raise ValueError(f"{path}: refused, it is not a plain file of tensors ({holds}; code is never run)") from None
    except Exception as error:  # the reader raises many types for bytes that are not a pickle
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: cannot be read; it may be truncated or not a weights file ({reason})") from None
