"""Tensors of many files by name, memory-mapped: a tensor is read when it is requested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from chatbridge.models.component import State
from chatbridge.models.tensor_headers import INDEX, Choose, TensorHeader, open_safetensors, read_headers
from chatbridge.models.weight_files import read_state


class LazyTensors:
    """The tensors of a file, an index of shards or a model folder. Raises ValueError as `read_headers` does."""

    def __init__(self, path: Path, choose: Choose | None = None) -> None:
        self.path = path
        self.headers: dict[str, TensorHeader] = read_headers(path, choose)
        self.prefix = ""  # removed from all names
        self._open: tuple[Path, Any] | None = None

    def __getitem__(self, name: str) -> Tensor:
        """Return one tensor. Its file stays open until a tensor of another file is requested."""
        file = self.headers[name].file
        if self._open is None or self._open[0] != file:
            is_safetensors = file.suffix == ".safetensors"
            self._open = (file, open_safetensors(file) if is_safetensors else read_state(file))
        source, full = self._open[1], self.prefix + name
        return source[full] if isinstance(source, dict) else source.get_tensor(full)

    def remove_prefix(self, prefix: str) -> None:
        """Remove the prefix of a wrapper such as "module." from all names."""
        self.headers = {name.removeprefix(prefix): header for name, header in self.headers.items()}
        self.prefix += prefix


def read_chosen(path: Path, choose: Choose) -> State:
    """All tensors [...] of a file, and of an index of shards or a folder those that `choose` names, given all names.

    raises   ValueError as `read_headers` does
    """
    if not path.is_dir() and not path.name.endswith(INDEX):
        return read_state(path)
    lazy = LazyTensors(path, choose)
    return {name: lazy[name] for name in choose(lazy.headers)}
