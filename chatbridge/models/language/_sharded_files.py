"""Read a language model's folder so that each rank reads only the rows it keeps.

The decoder layers have most of the values, and under `run.parallel: shard` a rank keeps 1 / ranks of the rows of each
of their tensors. A safetensors file gives any rows without reading the others, and so does a file of torch, mapped into
memory. So the layers first get placeholders, which take no memory, and `TensorFiles.rows` brings the values once it is
known which rows are whose.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chatbridge.models.hf_folder import removed
from chatbridge.models.language._causal_lm_folder import is_buffer
from chatbridge.models.language._llava_folder import PROJECTOR, llava_settings
from chatbridge.models.weight_files import PICKLED, check_file, mapped_tensors, prefixes_of

FILES = ("model.safetensors", "pytorch_model.bin")  # in the order of transformers; an index has the name and INDEX
INDEX = ".index.json"


class TensorFiles:
    """The tensors of a folder of safetensors or torch files by name.

    bytes_read   bytes of all values that were read so far
    raises       ValueError with the reason when the folder has other files, or one of them is missing or damaged
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, str] = {}  # a model's name -> the name in the files, where they differ
        self.heights: dict[str, int] = {}  # a model's name -> the rows it takes, where the file has more
        self.bytes_read = 0
        self._open: dict[str, Any] = {}
        self._file_of = {name: file for file in _files(folder) for name in self._opened(file).keys()}  # noqa: SIM118

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a whole tensor, with the rows that the model takes."""
        shape = tuple(self._slice(name).get_shape())
        return (self.heights[name], *shape[1:]) if name in self.heights else shape

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start` to `stop` - 1 of a tensor, in the dtype of the file; [stop - start, ...], or [] of a scalar."""
        found = self._slice(name)
        stop = self.heights.get(name) if stop is None else stop
        part = found[start:stop] if found.get_shape() else self._opened(self._file_of[name]).get_tensor(name)
        self.bytes_read += part.numel() * part.element_size()
        return part

    def _slice(self, name: str) -> Any:
        name = self.names.get(name, name)
        return self._opened(self._file_of[name]).get_slice(name)

    def _opened(self, file: str) -> Any:
        from safetensors import SafetensorError, safe_open

        if file not in self._open:
            path = self.folder / file
            if path.suffix in PICKLED:
                self._open[file] = _MappedFile(path)
                return self._open[file]
            check_file(path)
            try:
                self._open[file] = safe_open(path, framework="pt")
            except SafetensorError as error:
                raise ValueError(f"{path}: cannot be read as safetensors, it may be truncated ({error})") from None
        return self._open[file]


class _MappedFile:
    """A file of torch with the methods of safetensors' reader. raises ValueError when it cannot be mapped"""

    def __init__(self, path: Path) -> None:
        self._tensors = mapped_tensors(path)

    def keys(self) -> Iterable[str]:
        return self._tensors.keys()

    def get_tensor(self, name: str) -> Tensor:
        """[...], in memory of its own"""
        return self._tensors[name].clone()

    def get_slice(self, name: str) -> _MappedSlice:
        return _MappedSlice(self._tensors[name])


class _MappedSlice:
    """Rows [...] of a mapped tensor, read when they are taken."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self._tensor.shape)

    def __getitem__(self, rows: slice) -> Tensor:
        return self._tensor[rows].clone()


def load_outside_layers(language: Any, device: torch.device, dtype: torch.dtype) -> str:
    """`load` of a CausalLM without its decoder layers, if its folder allows it; otherwise of everything, and why.

    dtype    of frozen parameters; trainable ones are fp32
    returns  a line for the log
    raises   ValueError when the weights cannot be loaded
    """
    config, lm = language.config, language.lm
    if config.weights is None:
        return language.load(device, dtype)
    if config.bits is not None:
        return f"{language.load(device, dtype)}; the packed weights are whole on every rank"
    try:
        files = TensorFiles(config.weights)
        prefix = find_names(lm, files)
    except ValueError as reason:
        return f"{language.load(device, dtype)}; every rank read all of it: {reason}"
    read_outside_layers(lm, language.decoder_layers, files, device, dtype)
    language.unread = lambda name, start, stop: files.rows(name.removeprefix("lm."), start, stop)
    each = f"; each rank reads its rows of the {len(language.decoder_layers)} decoder layers"
    return f"language: {len(files.names)} tensors from {config.weights}{removed(prefix)}{each}"


def _files(folder: Path) -> list[str]:
    """The names of the files that transformers would read."""
    for single in FILES:
        index = folder / f"{single}{INDEX}"
        if (folder / single).is_file():
            return [single]
        if index.is_file():
            try:
                return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(f"{index.name} cannot be read") from None
    raise ValueError(f"it has neither {' nor '.join(FILES)}, whole or with an index")


def find_names(lm: nn.Module, files: TensorFiles) -> str:
    """Find each tensor of a model in its files, and remember names that differ; returns the prefix they have in front.

    raises   ValueError when a tensor is missing, left over, or of another shape. Then only the whole reading, which
             knows how transformers converts the names of a family, can tell whether the folder is right
    """
    wanted, found = stored_once(lm), set(files)
    is_llava = llava_settings(files.folder) is not None  # its projector and last rows are for other parts of a model
    if is_llava:
        found = {name for name in found if PROJECTOR not in name}
    for prefix in ("", *prefixes_of(files)):
        files.names = {name: prefix + name for name in wanted}
        known = {prefix + name for name in lm.state_dict()}
        left = [name for name in found - known if not is_buffer(name)]
        if not left and found.issuperset(files.names.values()):
            break
    else:
        raise ValueError("the names in its files are not those of the model")
    if is_llava:
        tall = {name: len(wanted[name]) for name in _vocabulary(lm) if name in wanted}
        files.heights = {name: height for name, height in tall.items() if files.shape(name)[0] > height}
    if other := [name for name, tensor in wanted.items() if files.shape(name) != tuple(tensor.shape)]:
        raise ValueError(f"{other[0]} has the shape {files.shape(other[0])} in its files")
    return prefix


def read_outside_layers(lm: Any, layers: nn.ModuleList, files: TensorFiles, device: torch.device, dtype: Any) -> None:
    """Read every tensor outside the decoder layers onto `device`; those of the layers get placeholders.

    Both are in the dtype they will have: trainable ones in fp32, frozen ones in `dtype`.
    """
    inside = {id(parameter) for parameter in layers.parameters()}
    for name, tensor in stored_once(lm).items():
        if not isinstance(tensor, nn.Parameter):
            set_tensor(lm, name, files.rows(name).to(device, tensor.dtype))
            continue
        kept = torch.float32 if tensor.requires_grad else dtype
        is_inside = id(tensor) in inside
        value = placeholder(tensor.shape, kept, device) if is_inside else files.rows(name).to(device, kept)
        set_tensor(lm, name, nn.Parameter(value, requires_grad=tensor.requires_grad))
    lm.tie_weights()
    compute_buffers(lm, device)


def placeholder(shape: Iterable[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of zeros [...] with the memory of one value. Unlike a meta tensor, adapters can be put beside it."""
    return torch.zeros(1, dtype=dtype, device=device).expand(tuple(shape))


def is_placeholder(tensor: Tensor) -> bool:
    """Whether a tensor [...] has fewer values in memory than its shape."""
    return tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()


def stored_once(lm: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter or stored buffer [...], without the second names of tied weights."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in lm.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            found[name] = tensor
        seen.add(id(tensor))
    return found


def _vocabulary(lm: Any) -> list[str]:
    """The names of embedding and head."""
    modules = [lm.get_input_embeddings(), lm.get_output_embeddings()]
    return [f"{name}.weight" for name, module in lm.named_modules() if any(module is one for one in modules)]


def set_tensor(lm: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor [...] into the place of the one with this name."""
    owner, _, leaf = name.rpartition(".")
    setattr(lm.get_submodule(owner), leaf, value)


def compute_buffers(lm: Any, device: torch.device) -> None:
    """Compute the buffers that no file has (rotary frequencies), as transformers does after reading a folder."""
    for parameter in lm.parameters():
        parameter._is_hf_initialized = True  # keeps initialize_weights from changing it
    for module in lm.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer, device=device)
                module._is_hf_initialized = False
    lm.initialize_weights()
