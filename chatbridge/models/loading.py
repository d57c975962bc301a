"""Weights from files into parts: strict, with every tensor of part and file accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from chatbridge.models.component import Component, LoadNotes, State
from chatbridge.models.encoders.base import FloatLayerNorm
from chatbridge.models.weight_files import check_file, prefixes_of, read_pickle, read_state, without_prefix

__all__ = [
    "LoadReport", "check_file", "copy_state", "fill", "load_component", "load_weights", "mismatches", "place",
    "read_pickle", "read_state", "save_component",
]  # fmt: skip


@dataclass(frozen=True)
class LoadReport:
    """What one file gave one part; str() is for people."""

    path: Path
    loaded: tuple[str, ...]  # our names
    notes: LoadNotes = field(default_factory=LoadNotes)

    def __str__(self) -> str:
        said = [f"{len(self.loaded)} tensors from {self.path}"]
        for what, entries in vars(self.notes).items():
            if entries:
                said.append(f"{len(entries)} {what} ({'; '.join(sorted(set(entries.values())))})")
        return ", ".join(said)


def load_weights(model: nn.Module, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> list[str]:
    """Read every weights file a ChatModel's config names, then put the model on `device`, ready to run in `dtype`.

    Call it after `set_trainable`: what is frozen is kept in `dtype`, what trains in fp32.

    returns  a line per file, for people
    raises   ValueError with all that is missing, damaged or does not fit
    """
    lines, problems = [], []
    parts = {f"{kind}.{name}": part for kind in ("encoders", "bridges") for name, part in getattr(model, kind).items()}
    for name, part in parts.items():
        for path, only in part.files():
            try:
                lines.append(f"{name}: {load_component(part, path, only)}")
            except ValueError as error:
                problems.append(f"{name}: {error}")
        try:
            line = part.load_folder()
            lines += [f"{name}: {line}"] if line else []
        except ValueError as error:
            problems.append(f"{name}: {error}")
    try:
        lines.append(model.language.load(torch.device(device), dtype))
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    if getattr(model, "added_tokens", None) is not None:
        model.added_tokens.start(model.language)
    place(model, device, dtype)
    return lines


def place(model: nn.Module, device: torch.device | str, dtype: torch.dtype) -> None:
    """Move a ChatModel to `device`: frozen parameters in `dtype`, trainable ones in fp32, and `fp32_parameters`.

    raises   ValueError for a part that is still without memory: its weights were never given
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"{name} has no values: it was built on the meta device and no file was loaded into it")
    exact = fp32_parameters(model)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            kept = parameter.requires_grad or id(parameter) in exact
            parameter.data = parameter.data.to(device, torch.float32 if kept else dtype)
    for encoder in model.encoders.values():  # a language model's buffers (rotary frequencies) stay in fp32
        if not any(parameter.requires_grad for parameter in encoder.parameters()):
            for module in encoder.modules():
                for name, buffer in module._buffers.items():
                    if buffer is not None and buffer.is_floating_point():
                        module._buffers[name] = buffer.to(dtype)
    model.to(device)
    model.compute_dtype = dtype


def fp32_parameters(model: nn.Module) -> set[int]:
    """Ids of frozen parameters that stay in fp32: last norms, and all but the matrices of parts that ask for it.

    In bf16, an EVA-ViT of 39 blocks is 1.2 % off with everything in bf16 and 0.35 % with its sums in fp32 (measured on
    random weights). Few numbers: 0.07 % of EVA-ViT-g.
    """
    found = {id(p) for module in model.modules() if isinstance(module, FloatLayerNorm) for p in module.parameters()}
    for part in model.modules():
        if isinstance(part, Component) and part.fp32_residuals:
            matrices = [module for module in part.modules() if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))]
            rounded = {id(p) for module in matrices for p in module.parameters(recurse=False)}
            found |= {id(p) for p in part.parameters()} - rounded
    return found


def load_component(part: Component, path: Path | str, only: Iterable[str] | None = None) -> LoadReport:
    """Fill `part` from a released file or from one of ours; every tensor is accounted for.

    only     prefixes of our names to take from a file that holds more than this part needs
    raises   ValueError naming the file, with a table of missing, unexpected and wrongly shaped tensors
    """
    path = Path(path)
    return fill(part, read_state(path), path, only)


def fill(part: Component, state: State, path: Path, only: Iterable[str] | None = None) -> LoadReport:
    """`load_component` for tensors that are read already; `path` says where they came from."""
    try:
        state, notes = fitted(part, state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    wanted = part.state_dict()
    if only is not None:
        prefixes = tuple(only)
        wanted = {name: value for name, value in wanted.items() if name.startswith(prefixes)}
        state = {name: value for name, value in state.items() if name.startswith(prefixes)}
    problems = mismatches(wanted, state, notes.kept if only is None else ())
    if problems:
        raise ValueError(f"{path} does not fit {type(part).__name__}:\n" + "\n".join(problems))
    copy_state(part, state)
    materialise(part)
    return LoadReport(path, tuple(sorted(state)), notes)


def fitted(part: Component, state: State) -> tuple[State, LoadNotes]:
    """Tensors of a file in the names of a part, and what was done to them.

    A prefix that all names of the file have ("module.", "_orig_mod.", "model.") is removed where that makes more of
    them fit. raises ValueError where the part cannot read them
    """
    tries = [_fitted(part, state, prefix) for prefix in ("", *prefixes_of(state))]
    wanted = part.state_dict().keys()
    read = [one for one in tries if not isinstance(one, ValueError)]
    if not read:
        raise next(one for one in tries if isinstance(one, ValueError))
    return max(read, key=lambda one: len(wanted & one[0].keys()))  # of equal ones the first: nothing is removed


def _fitted(part: Component, state: State, prefix: str) -> tuple[State, LoadNotes] | ValueError:
    notes = LoadNotes()
    try:
        inner = without_prefix(state, prefix)
        notes.renamed |= dict.fromkeys(state if prefix else (), f"prefix {prefix!r} removed")
        return part.fit(part.convert(inner), notes), notes
    except ValueError as error:
        return error


def save_component(part: nn.Module, path: Path | str) -> None:
    """Write a part's tensors in our names, as `load_component` reads them (.safetensors)."""
    from safetensors.torch import save_file

    save_file({name: value.detach().contiguous().cpu() for name, value in part.state_dict().items()}, path)


def mismatches(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], optional: Iterable[str] = ()) -> list[str]:
    """Lines of a table: what is missing, unexpected or of another shape. Empty when everything fits."""
    excused = set(optional)
    rows = [("missing", name, _size(value), "-") for name, value in wanted.items() if name not in {*state, *excused}]
    rows += [("unexpected", name, "-", _size(value)) for name, value in state.items() if name not in wanted]
    for name, value in state.items():
        if name in wanted and wanted[name].shape != value.shape:
            rows.append(("shape", name, _size(wanted[name]), _size(value)))
    return _table(rows) if rows else []


def _table(rows: list[tuple[str, str, str, str]], limit: int = 20) -> list[str]:
    """With both sides in it: when nothing fits, the names of the model and those of the file."""
    head = ("problem", "name", "model has", "file has")
    kinds = [[row for row in rows if row[0] == kind] for kind in dict.fromkeys(row[0] for row in rows)]
    share = max(limit // len(kinds), limit - sum(len(kind) for kind in sorted(kinds, key=len)[:-1]))
    shown = [head, *(row for kind in kinds for row in kind[:share])]
    widths = [max(len(row[column]) for row in shown) for column in range(4)]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in shown]
    if left := len(rows) - len(shown) + 1:
        lines.append(f"  ... and {left} more")
    return lines


def _size(value: Tensor) -> str:
    return "x".join(str(size) for size in value.shape) or "scalar"


def copy_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy tensors into a module by name, keeping the module's dtype and device.

    A tensor of the module that has no memory yet (meta device) becomes a copy on the CPU.
    """
    own = dict(module.state_dict(keep_vars=True))
    with torch.no_grad():
        for name, value in state.items():
            if own[name].is_meta:
                _replace(module, name, value.to("cpu", own[name].dtype, copy=True))
            else:
                own[name].copy_(value)


def materialise(part: Component) -> None:
    """Give memory and start values to what is still without: small layers a file need not have, and buffers."""
    found_buffers = False
    for module in part.modules():
        if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
            if not isinstance(module, (nn.LayerNorm, nn.Linear)):
                raise ValueError(f"{type(module).__name__} of {type(part).__name__} has no values and no start values")
            module.to_empty(device="cpu", recurse=False)
            module.reset_parameters()
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
                found_buffers = True
    if found_buffers:
        part.reset_buffers()


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    before = getattr(owner, leaf)
    if isinstance(before, nn.Parameter):
        setattr(owner, leaf, nn.Parameter(value, requires_grad=before.requires_grad))
    else:
        setattr(owner, leaf, value)
