"""The comparison of a weights file with a part of a model by names and shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from chatbridge.models.component import LoadNotes, State
from chatbridge.models.component_tensors import without_adapters
from chatbridge.models.loading import fitted, mismatches
from chatbridge.models.tensor_headers import Choose, read_headers


@dataclass
class FileCheck:
    """The comparison of one file with one component."""

    component: str
    path: Path | str
    num_loaded: int = 0
    notes: LoadNotes = field(default_factory=LoadNotes)
    counts: dict[str, int] = field(default_factory=dict)  # missing, unexpected, shape
    problems: list[str] = field(default_factory=list)

    def match(self, wanted: Mapping[str, Tensor], state: State, optional: Collection[str] = ()) -> None:
        """Compare names and shapes; `optional` names may be absent from the file."""
        alike = {name for name in wanted if name in state and wanted[name].shape == state[name].shape}
        self.num_loaded = len(alike)
        self.counts = {
            "missing": len(wanted.keys() - state.keys() - set(optional)),
            "unexpected": len(state.keys() - wanted.keys()),
            "different shape": len((wanted.keys() & state.keys()) - alike),
        }
        self.problems = mismatches(wanted, state, optional)

    def __str__(self) -> str:
        said = [f"loaded {self.num_loaded}", *(f"{what} {count}" for what, count in self.counts.items() if count)]
        said += [f"{what} {len(entries)}" for what, entries in vars(self.notes).items() if entries]
        lines = [f"{'ok' if not self.problems else 'NO':<3} {self.component}: {', '.join(said)}  <- {self.path}"]
        for what, entries in vars(self.notes).items():
            for reason in sorted(set(entries.values())):
                names = [name for name, why in entries.items() if why == reason]
                lines.append(f"      {what}: {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''} ({reason})")
        return "\n".join([*lines, *(f"    {line}" for line in self.problems)])


def compare(name: str, path: Path, part: Any, state: State, only: Sequence[str] | None = None) -> FileCheck:
    """Compare tensors with a part as loading does (models.loading.fill), without copying values."""
    found = FileCheck(name, path)
    try:
        state, found.notes = fitted(part, state)
    except ValueError as error:
        found.problems = [str(error)]
        return found
    wanted: Mapping[str, Tensor] = without_adapters(part)
    if only is not None:
        prefixes = tuple(only)
        wanted = {key: value for key, value in wanted.items() if key.startswith(prefixes)}
        state = {key: value for key, value in state.items() if key.startswith(prefixes)}
        found.notes = LoadNotes(reshaped={k: v for k, v in found.notes.reshaped.items() if k.startswith(prefixes)})
    found.match(wanted, state, found.notes.kept if only is None else ())
    return found


def placeholders(path: Path, choose: Choose | None = None) -> State:
    """Return the tensors [...] of a file, an index of shards or a folder by name, without values. Raises ValueError.

    choose   the names to read of shards, given all; None: all
    """
    return {name: header.placeholder() for name, header in read_headers(path, choose).items()}
