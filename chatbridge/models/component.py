"""What encoders, bridges and other parts with weight files have in common: names, and what happens at load."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

State = dict[str, Tensor]


@dataclass
class LoadNotes:
    """What a part did with a file's tensors besides copying them; every entry carries its reason."""

    dropped: dict[str, str] = field(default_factory=dict)  # key in the file -> why it is not wanted
    reshaped: dict[str, str] = field(default_factory=dict)  # our name -> what was done
    kept: dict[str, str] = field(default_factory=dict)  # our name -> why the file need not have it
    renamed: dict[str, str] = field(default_factory=dict)  # key in the file -> which prefix was removed


class Component(nn.Module):
    """A module that can be loaded from a released file or from one of ours."""

    config: Any
    # Frozen parts are kept in the dtype of a run (bf16). True: only their matrices and convolutions are, so that what
    # adds up from block to block (tokens, positions, norms) stays in fp32, as the released models ran.
    fp32_residuals: ClassVar[bool] = False

    @staticmethod
    def convert(state: State) -> State:
        """Public checkpoint names -> ours. Names that are ours already stay; unknown ones stay and fail the load."""
        return state

    def fit(self, state: State, notes: LoadNotes) -> State:
        """Adapt converted tensors to this part's size, noting what is resized, dropped or left at its start value."""
        return state

    def files(self) -> list[tuple[Path, tuple[str, ...] | None]]:
        """Weight files of this part, each with the prefixes of our names it is read for (None = all of it)."""
        return [] if self.config.weights is None else [(self.config.weights, None)]

    def load_folder(self) -> str | None:
        """Fill this part from a whole folder, where its weights are one; a line for people. raises ValueError"""
        return None

    def reset_buffers(self) -> None:
        """Fill buffers that no file holds, after the part was built without memory (meta device)."""


def is_nameable(name: str, module: nn.Module) -> bool:
    """Whether a tensor or part of `module` can have this name: without a dot, and no attribute of the module."""
    return bool(name) and "." not in name and not hasattr(module, name)
