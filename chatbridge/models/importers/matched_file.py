"""A released file of a bridge, added tokens and a language model, and how a model is filled from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from chatbridge.models.adapter_layers import restart_magnitudes
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import Component, State
from chatbridge.models.component_tensors import carry, trainable_parameters
from chatbridge.models.loading import check_numbers, copy_state, fill


@dataclass(frozen=True)
class MatchedFile:
    """A released file by our names, before anything is copied.

    bridge   the name of the bridge that the file fills
    tensors  of that bridge [...], by a name that its `convert` accepts
    taken    tensors [...] of added_tokens and language by full name
    lines    for the log
    only     beginnings of the bridge's names that the file fills; None: all of it
    """

    bridge: str
    tensors: State
    taken: State
    lines: tuple[str, ...]
    only: tuple[str, ...] | None = None


def fill_from_matched(model: ChatModel, found: MatchedFile, path: Path) -> list[str]:
    """Copy the tensors of a file to their places in a model.

    path     of the file or folder, for messages
    returns  lines for the log: what was loaded, and what was not with the reason
    raises   ValueError when a value is not finite, or the bridge would be filled incompletely
    """
    bridge = cast("Component", model.bridges[found.bridge])
    check_numbers({name: value for name, value in found.taken.items() if name.startswith("added_tokens.")}, path)
    report = fill(bridge, found.tensors, path, only=found.only)
    copy_state(model, found.taken)
    restart_magnitudes(model, found.taken)
    filled = {*found.taken, *(f"bridges.{found.bridge}.{key}" for key in report.loaded)}
    carry(model, filled - trainable_parameters(model).keys())
    return [f"bridges.{found.bridge}: {len(report.loaded)} tensors from {path}", *found.lines]


__all__ = ["MatchedFile", "fill_from_matched"]
