"""EfficientNet-Lite0 with the names of timm's tf_efficientnet_lite0.

The released file has the same layers in the same order under the names of its own implementation, so the tensors are
matched by their position, and each shape is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.cli.weights.shard_writer import write_safetensors
from chatbridge.common.errors import DataError

MODEL = "tf_efficientnet_lite0"


def convert_efficientnet(source: Path, target: Path) -> Path:
    """Write the released .pth as safetensors with timm's names, classifier included. Returns `target`."""
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive fails in many ways
        raise DataError(f"{source}: cannot be read as weights of torch: {error}") from None
    named = timm_names(state, source)
    write_safetensors({name: value.contiguous() for name, value in named.items()}, target)
    return target


def timm_names(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors [...] under timm's names.

    raises   DataError when their number or a shape differs from timm's model
    """
    import timm

    with torch.device("meta"):
        wanted: dict[str, Any] = timm.create_model(MODEL).state_dict()
    if len(state) != len(wanted):
        raise DataError(f"{path}: has {len(state)} tensors, {MODEL} has {len(wanted)}; is it EfficientNet-Lite0?")
    named: dict[str, Tensor] = {}
    for (own, value), (name, empty) in zip(state.items(), wanted.items(), strict=True):
        if value.shape != empty.shape or own.rpartition(".")[2] != name.rpartition(".")[2]:
            raise DataError(
                f"{path}: {own} {list(value.shape)} stands where {MODEL} has {name} {list(empty.shape)}; "
                "expected the released efficientnet-lite0 file"
            )
        named[name] = value
    return named
