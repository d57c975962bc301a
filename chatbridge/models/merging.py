"""Adapters as tensors: added to the weights of their layers, or written as a peft folder. Without a model that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chatbridge.models.adapters import ADAPTER, AdapterConfig, adapter_targets, is_transposed, linear_layers


@dataclass(frozen=True)
class Update:
    """The adapter of one layer: W + scale * B A, and with magnitudes m each row of that scaled to the norm m.

    entry       its settings
    down, up    A float[r, in], B float[out, r]
    magnitude   float[out] of DoRA; None without
    is_flipped  whether the layer stores W as [in, out]
    """

    entry: AdapterConfig
    down: Tensor
    up: Tensor
    magnitude: Tensor | None
    is_flipped: bool

    def merged(self, weight: Tensor) -> Tensor:
        """float[out, in] -> the weight of a layer that computes the same without the adapter, in the same dtype.

        It is computed in fp32. source: peft, tuners/lora/layer.py and dora.py
        """
        exact = weight.float().T if self.is_flipped else weight.float()
        exact = exact + scale_of(self.entry) * (self.up.float() @ self.down.float())
        if self.magnitude is not None:
            exact = exact * (self.magnitude.float() / torch.linalg.vector_norm(exact, dim=1))[:, None]
        return (exact.T if self.is_flipped else exact).to(weight.dtype).contiguous()


def scale_of(adapter: AdapterConfig) -> float:
    """The factor on B A."""
    return adapter.alpha / (adapter.rank**0.5 if adapter.use_rslora else adapter.rank)


def updates(model: nn.Module, adapters: Sequence[AdapterConfig], trained: Mapping[str, Tensor]) -> dict[str, Update]:
    """Name of a layer -> its adapter, for the layers whose adapter is in `trained`.

    model     without adapters; its layers may be on the meta device
    trained   name -> tensors [...] of a checkpoint
    """
    layers, found = linear_layers(model), {}
    for target in adapter_targets(model, adapters):
        down, up, magnitude = (
            trained.get(f"{target.name}.{kind}.{ADAPTER}.weight")
            for kind in ("lora_A", "lora_B", "lora_magnitude_vector")
        )
        if down is not None and up is not None:
            is_flipped = is_transposed(layers[target.name])
            found[target.name] = Update(adapters[target.entry], down, up, magnitude, is_flipped)
    return found


def merged(name: str, value: Tensor, adapted: Mapping[str, Update]) -> Tensor:
    """A tensor [...] of a model, with the adapter of its layer added if it is the weight of a layer that has one."""
    layer, _, leaf = name.rpartition(".")
    return adapted[layer].merged(value) if leaf == "weight" and layer in adapted else value


def peft_tensors(adapted: Mapping[str, Update], root: str) -> dict[str, Tensor]:
    """The tensors of adapter_model.safetensors: A float[r, in], B float[out, r], magnitudes float[out].

    root   what peft wraps; the names in the file are those below it
    """
    tensors = {}
    for name, update in adapted.items():
        layer = f"base_model.model.{name.removeprefix(f'{root}.')}"
        tensors[f"{layer}.lora_A.weight"] = update.down.contiguous()
        tensors[f"{layer}.lora_B.weight"] = update.up.contiguous()
        if update.magnitude is not None:
            tensors[f"{layer}.lora_magnitude_vector"] = update.magnitude.contiguous()
    return tensors


def peft_settings(adapted: Mapping[str, Update], root: str, base: str) -> dict[str, Any]:
    """The arguments of peft.LoraConfig for adapters that may differ in rank and scale.

    base     folder of the language model
    raises   ValueError when only some of them are DoRA
    """
    kinds = {update.magnitude is not None for update in adapted.values()}
    if len(kinds) > 1:
        raise ValueError(
            "a peft folder cannot hold adapters with and without use_dora; export them merged, with --merge"
        )
    names = {name.removeprefix(f"{root}."): update.entry for name, update in adapted.items()}
    first = next(iter(names.values()))
    # peft divides alpha by the rank: an alpha of scale * rank expresses use_rslora as well
    alphas = {name: scale_of(entry) * entry.rank for name, entry in names.items()}
    return {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": first.rank,
        "lora_alpha": scale_of(first) * first.rank,
        "target_modules": sorted(names),
        "rank_pattern": {name: entry.rank for name, entry in names.items() if entry.rank != first.rank},
        "alpha_pattern": {name: alpha for name, alpha in alphas.items() if alpha != scale_of(first) * first.rank},
        "lora_dropout": first.dropout,
        "use_dora": kinds == {True},
        "inference_mode": True,
    }
