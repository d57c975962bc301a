"""The base class of encoders, bridges and language models: tensors that are loaded from weight files by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

State = dict[str, Tensor]


@dataclass
class LoadNotes:
    """Tensors of a file that were not copied as they are, each with the reason."""

    dropped: dict[str, str] = field(default_factory=dict)  # key in the file -> why it is not used
    reshaped: dict[str, str] = field(default_factory=dict)  # our name -> how its value was made
    kept: dict[str, str] = field(default_factory=dict)  # our name -> why the file need not have it
    renamed: dict[str, str] = field(default_factory=dict)  # key in the file -> which prefix was removed


class Component(nn.Module):
    """A module that loads a released weights file or one of ours.

    A subclass overrides `convert` (names) and `fit` (sizes); `loading.load_component` then copies strictly.
    """

    config: Any
    # A frozen component is stored in the dtype of the run (bf16). True: only its matrices and convolutions are, so the
    # residual stream (tokens, position embeddings, norms) stays in fp32, as the released models ran
    fp32_residuals: ClassVar[bool] = False

    @staticmethod
    def convert(state: State) -> State:
        """Rename the tensors of a public checkpoint to our names.

        state    name -> tensor, any dtype and shape [...]; names that are ours already stay
        returns  the same tensors; an unknown name stays as it is and fails the strict load
        """
        return state

    @staticmethod
    def names_within(names: Iterable[str]) -> list[str]:
        """Of the names in a folder of a whole model those of this component; the others are not read."""
        return list(names)

    def fit(self, state: State, notes: LoadNotes) -> State:
        """Adapt converted tensors to the sizes of this component.

        state    our name -> tensor [...]
        notes    receives every tensor that is resized, dropped or left at its initial value
        returns  the tensors to copy, in the shapes of this component
        raises   ValueError when a tensor cannot be adapted
        """
        return state

    def files(self) -> list[tuple[Path, tuple[str, ...] | None]]:
        """Weight files of this component, each with the prefixes of our names to take from it (None = all)."""
        return [] if self.config.weights is None else [(self.config.weights, None)]

    def load_folder(self) -> str | None:
        """Load a Hugging Face folder, for components whose weights are one; returns a line for the log.

        raises   ValueError when the folder cannot be read or does not fill the component
        """
        return None

    def reset_buffers(self) -> None:
        """Compute the buffers that no file holds, after the component was built on the meta device."""

    def layers(self) -> list[nn.Module]:
        """The repeated layers in order: the units of activation checkpointing and compilation."""
        return repeated_layers(self)


def repeated_layers(module: nn.Module) -> list[nn.Module]:
    """The blocks of a network: the modules of its lists of equal modules, and of stages their blocks.

    A list counts if its modules have one class, parameters and submodules, like the blocks of a transformer. A network
    without such a list is one layer.
    """
    return _blocks(module) or [module]


def _blocks(module: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    for child in module.children():
        blocks = list(child.children()) if _is_list(child) else []
        if len({type(block) for block in blocks}) != 1 or not all(map(_is_network, blocks)):
            found += _blocks(child)
            continue
        for block in blocks:
            inner = _blocks(block)
            is_stage = sum(map(_size, inner)) > 0.8 * _size(block)
            found += inner if is_stage else [block]
    return found


def _is_list(module: nn.Module) -> bool:
    """Whether the children are an ordered series; those of a dictionary are if numbers name them."""
    names = module.keys() if isinstance(module, nn.ModuleDict) else ()
    return isinstance(module, (nn.ModuleList, nn.Sequential)) or (bool(names) and all(map(str.isdigit, names)))


def _is_network(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and any(True for _ in module.parameters())


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def is_nameable(name: str, module: nn.Module) -> bool:
    """Whether a tensor or submodule of `module` can have this name: it has no dot and is not an attribute already."""
    return bool(name) and "." not in name and not hasattr(module, name)
