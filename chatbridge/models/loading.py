"""Load weights from files into components, strictly: every tensor of the component and of the file is accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from chatbridge.models.adapter_layers import inject_adapters
from chatbridge.models.checkpoint_tensors import copy_rows
from chatbridge.models.component import Component, LoadNotes, State
from chatbridge.models.fingerprints import is_sharded
from chatbridge.models.lazy_tensors import read_chosen
from chatbridge.models.placement import place_model
from chatbridge.models.weight_files import check_file, prefixes_of, read_pickle, read_state, without_prefix

if TYPE_CHECKING:
    from chatbridge.models.chat_model import ChatModel

__all__ = [
    "LoadReport", "check_file", "copy_state", "fill", "load_component", "load_weights", "mismatches",
    "read_pickle", "read_state", "save_component",
]  # fmt: skip


@dataclass(frozen=True)
class LoadReport:
    """The tensors that one file gave one component; str() is a line for the log."""

    path: Path
    loaded: tuple[str, ...]  # our names
    notes: LoadNotes = field(default_factory=LoadNotes)

    def __str__(self) -> str:
        counts = [f"{len(self.loaded)} tensors from {self.path}"]
        for what, entries in vars(self.notes).items():
            if entries:
                counts.append(f"{len(entries)} {what} ({'; '.join(sorted(set(entries.values())))})")
        return ", ".join(counts)


def load_weights(
    model: ChatModel,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    layers_later: bool = False,
    dtypes: Mapping[str, torch.dtype] = MappingProxyType({}),
) -> list[str]:
    """Load every weights file that a model's config names, put its adapters in, and move the model to `device` to run
    in `dtype`.

    Call it after `set_trainable`: frozen parameters are stored in `dtype`, trainable ones in fp32.

    dtypes   component -> the dtype that replaces `dtype` for it
    layers_later   leave the language model's decoder layers to `language.unread` where its files allow it
    returns  a line per file, for the log
    raises   ValueError with everything that is missing, damaged or does not fit
    """
    lines: list[str] = []
    problems: list[str] = []
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
        load = model.language.load_outside_layers if layers_later else model.language.load
        lines.append(load(torch.device(device), dtypes.get("language", dtype)))
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    if model.added_tokens is not None:
        model.added_tokens.start(model.language)
    inject_adapters(model, model.config.adapters)
    place_model(model, device, dtype, dtypes)
    return lines


def load_component(part: Component, path: Path | str, only: Iterable[str] | None = None) -> LoadReport:
    """Load a released file or one of ours, or its part of a folder of a whole model, into a component.

    only     prefixes of our names to take, from a file that holds more than this component needs
    raises   ValueError with the file and a table of missing, unexpected and wrongly shaped tensors
    """
    path = Path(path)
    return fill(part, read_chosen(path, part.names_within), path, only)


def fill(part: Component, state: State, path: Path, only: Iterable[str] | None = None) -> LoadReport:
    """`load_component` for tensors that are in memory already; `path` is their origin, for messages."""
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
    check_numbers({name: state[name] for name, _ in part.named_parameters() if name in state}, path)
    copy_state(part, state)
    materialise(part)
    return LoadReport(path, tuple(sorted(state)), notes)


def check_numbers(state: Mapping[str, Tensor], path: Path) -> None:
    """raises ValueError for float tensors [...] with values that are not numbers: a model with one answers nonsense"""
    for name, value in state.items():
        # a sum costs half of isfinite; it may be infinite by itself
        if value.is_floating_point() and not value.sum(dtype=torch.float32).isfinite() and not value.isfinite().all():
            bad = int((~value.isfinite()).sum())
            raise ValueError(
                f"{path}: {bad:,} of the {value.numel():,} values of {name} are not numbers (nan, inf); the file is "
                "damaged, or its training failed: download it again, or take an earlier checkpoint"
            )


def fitted(part: Component, state: State) -> tuple[State, LoadNotes]:
    """The tensors of a file by the names of a component, and notes about the changes.

    A prefix that all names of the file have ("module.", "_orig_mod.", "model.") is removed if more names fit then.
    raises   ValueError when the component cannot convert them
    """
    tries = [_fitted(part, state, prefix) for prefix in ("", *prefixes_of(state))]
    wanted = part.state_dict().keys()
    read = [one for one in tries if not isinstance(one, ValueError)]
    if not read:
        raise next(one for one in tries if isinstance(one, ValueError))
    return max(read, key=lambda one: len(wanted & one[0].keys()))  # a tie keeps the prefix: the first one wins


def _fitted(part: Component, state: State, prefix: str) -> tuple[State, LoadNotes] | ValueError:
    notes = LoadNotes()
    try:
        inner = without_prefix(state, prefix)
        notes.renamed |= dict.fromkeys(state if prefix else (), f"prefix {prefix!r} removed")
        return part.fit(part.convert(inner), notes), notes
    except ValueError as error:
        return error


def save_component(part: nn.Module, path: Path | str) -> None:
    """Write the tensors of a component to a .safetensors file by our names; `load_component` reads it."""
    from safetensors.torch import save_file

    save_file({name: value.detach().contiguous().cpu() for name, value in part.state_dict().items()}, path)


def mismatches(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], optional: Iterable[str] = ()) -> list[str]:
    """Table lines of tensors that are missing, unexpected, have another shape, or are whole numbers where the model has
    fractions (weights that were quantised); empty when everything fits.

    wanted    name -> tensor [...] of the model
    state     name -> tensor [...] of the file
    optional  names that the file need not have
    """
    excused = set(optional)
    rows = [("missing", name, _size(value), "-") for name, value in wanted.items() if name not in {*state, *excused}]
    rows += [("unexpected", name, "-", _size(value)) for name, value in state.items() if name not in wanted]
    for name, value in state.items():
        if name in wanted and wanted[name].shape != value.shape:
            rows.append(("shape", name, _size(wanted[name]), _size(value)))
        elif name in wanted and wanted[name].is_floating_point() and not value.is_floating_point():
            rows.append(("type", name, _dtype(wanted[name]), _dtype(value)))
    return _table(rows) if rows else []


def _table(rows: list[tuple[str, str, str, str]], limit: int = 20) -> list[str]:
    """At most `limit` rows, shared between the kinds of problems, so that both sides' names are visible."""
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


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def copy_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy tensors into a module by name, keeping the dtype and device of the module.

    A tensor on the meta device becomes a copy on the CPU; a sharded one takes the rows of this rank.
    state    name -> tensor [...] of the module's shape
    raises   KeyError for a name that the module does not have
    """
    own = dict(module.state_dict(keep_vars=True))
    with torch.no_grad():
        for name, value in state.items():
            if own[name].is_meta:
                _replace(module, name, value.to("cpu", own[name].dtype, copy=True))
            elif is_sharded([own[name]]):
                copy_rows(own[name], value)
            else:
                own[name].copy_(value)


def materialise(part: Component) -> None:
    """Initialise what is still on the meta device: small layers that a file need not have, and buffers.

    raises   ValueError for a layer without an initialisation of its own
    """
    found_buffers = False
    for module in part.modules():
        if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
            if not isinstance(module, (nn.LayerNorm, nn.Linear)):
                raise ValueError(f"{type(module).__name__} of {type(part).__name__} has no values: no file has them")
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
