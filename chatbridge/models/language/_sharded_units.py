"""Whether the decoder layers of a language model can be spread over ranks, each layer as a unit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn


def units_obstacle(language: Any) -> str | None:
    """The reason why the layers of a language model cannot be spread over ranks, and the next step; None if they can.

    It has to have decoder layers, and no tensor may belong to two of them, or to one and to a part outside.
    """
    try:
        layers = list(language.decoder_layers)
    except (ValueError, AttributeError) as error:
        return f"shard spreads decoder layers over the ranks. {error}".split(" A fusion inside")[0]
    shared = next(_shared(language, layers), None)
    return f"shard spreads decoder layers over the ranks, but {shared}" if shared is not None else None


def _shared(language: nn.Module, layers: list[nn.Module]) -> Iterator[str]:
    """What belongs to two layers, or to a layer and a part outside of them."""
    owner: dict[int, int] = {}
    for number, layer in enumerate(layers):
        for name, parameter in layer.named_parameters():
            if owner.setdefault(id(parameter), number) != number:
                yield f"{name} of layer {number} is a tensor of layer {owner[id(parameter)]} too"
    inside = {id(module) for layer in layers for module in layer.modules()}
    for path, module in language.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if id(module) not in inside and id(parameter) in owner:
                yield f"{path}.{leaf} is a tensor of layer {owner[id(parameter)]} too"
