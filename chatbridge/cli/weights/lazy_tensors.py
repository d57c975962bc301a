"""Tensors of many files by name, memory-mapped: what is not asked for is not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from chatbridge.cli.weights.headers import Entry, read_header
from chatbridge.models.weight_files import read_state


class LazyState:
    """The tensors of a file, an index of shards or a model folder.

    raises   ValueError as `read_header` does
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = read_header(path)
        self.prefix = ""  # removed from all names
        self._open: tuple[Path, Any] | None = None

    def __getitem__(self, name: str) -> Tensor:
        """One tensor; the file it is in stays open until another one is needed."""
        file = self.entries[name].file
        if self._open is None or self._open[0] != file:
            self._open = (file, _opened(file))
        source = self._open[1]
        full = self.prefix + name
        return source[full] if isinstance(source, dict) else source.get_tensor(full)

    def remove_prefix(self, prefix: str) -> None:
        """Of all names: what a wrapper put before them."""
        self.entries = {name.removeprefix(prefix): entry for name, entry in self.entries.items()}
        self.prefix += prefix


def _opened(file: Path) -> Any:
    """A dictionary of memory-mapped tensors, or a safetensors reader."""
    if file.suffix != ".safetensors":
        return read_state(file)
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, "pt")
    except SafetensorError as error:
        raise ValueError(f"{file}: cannot be read as safetensors ({error})") from None
