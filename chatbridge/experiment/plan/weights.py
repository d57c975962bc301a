"""Bytes of the weights of a model as a run stores them, by component and by decoder layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component_tensors import component_of
from chatbridge.models.placement import fp32_parameters

FP32 = 4  # bytes per value of weights that train, and of their gradients


@dataclass(frozen=True)
class Component:
    """Values and bytes of the weights of one component.

    adapted   trainable values in adapters
    bits      of its quantised matrices; None: they are not quantised
    """

    name: str
    frozen: int
    trained: int
    adapted: int
    bytes: int
    dtype: str
    bits: int | None = None


def components(model: ChatModel, dtype: torch.dtype, bits: int | None = None) -> list[Component]:
    """The components with their weights as `place_model` stores them; quantised ones as their loader does."""
    found: dict[str, list[Any]] = {}
    sizes = stored_bytes(model, dtype, bits)
    for name, parameter in model.named_parameters():
        row = found.setdefault(component_of(name), [0, 0, 0, 0])
        is_adapter = "lora_" in name
        row[2 if is_adapter else 1 if parameter.requires_grad else 0] += parameter.numel()
        row[3] += sizes[id(parameter)]
    kind = str(dtype).removeprefix("torch.")
    return [
        Component(name, row[0], row[1], row[2], row[3], kind, bits if name == "language" else None)
        for name, row in found.items()
    ]


def stored_bytes(model: ChatModel, dtype: torch.dtype, bits: int | None = None) -> dict[int, int]:
    """`id()` of each parameter -> its bytes, as `place_model` or the loader of quantised weights stores it."""
    exact, quantised = fp32_parameters(model), _quantised(model, bits)
    found = {}
    for parameter in model.parameters():
        size = parameter.numel()
        if parameter.requires_grad or id(parameter) in exact:
            found[id(parameter)] = FP32 * size
        elif id(parameter) in quantised:
            found[id(parameter)] = int(size * (1.0 if bits == 8 else 0.53))  # 4 bit: scales of blocks of 64 included
        else:
            found[id(parameter)] = dtype.itemsize * size
    return found


def _quantised(model: ChatModel, bits: int | None) -> set[int]:
    """`id()` of the parameters that are stored in 8 or 4 bits."""
    return {id(p) for layer in decoder_layers(model) for p in _matrices(layer)} if bits else set()


@dataclass(frozen=True)
class LayerRows:
    """What `run.parallel: shard` spreads of one layer, of the decoder or of a fusion: all but quantised matrices, which
    have no rows.

    bytes   of the values as they are stored; trained: values with a gradient
    """

    values: int
    trained: int
    bytes: int


def layer_rows(model: ChatModel, dtype: torch.dtype, bits: int | None = None) -> list[LayerRows]:
    sizes, quantised = stored_bytes(model, dtype, bits), _quantised(model, bits)
    found = []
    for layer in [*decoder_layers(model), *model.fusion.units()]:
        spread = [p for p in layer.parameters() if id(p) not in quantised]
        trained = sum(p.numel() for p in spread if p.requires_grad)
        found.append(LayerRows(sum(p.numel() for p in spread), trained, sum(sizes[id(p)] for p in spread)))
    return found


def decoder_layers(model: ChatModel) -> list[nn.Module]:
    try:
        return list(model.language.decoder_layers)
    except ValueError:
        return []


def _matrices(module: nn.Module) -> list[Tensor]:
    return [one.weight for one in module.modules() if isinstance(one, nn.Linear) and not one.weight.requires_grad]
