"""Adapters inside a model: put beside its layers by peft, started, and merged into the weights.

All entries of model.adapters are one adapter of peft, called `default`, whose layers may differ in rank: so all of them
are active, and a component can be written as one peft folder.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from chatbridge.common.bitsandbytes_support import silence
from chatbridge.common.extras import need
from chatbridge.models.adapters import ADAPTER, AdapterConfig, Target, adapter_targets


def inject_adapters(model: nn.Module, adapters: Sequence[AdapterConfig]) -> None:
    """Wrap the linear layers that the entries match. The new matrices are trainable; nothing else changes that.

    The layers must have their values (DoRA reads them), or be on the meta device.
    model   without adapters; `adapter_problems` has found none
    raises  ImportError without peft
    """
    if not adapters:
        return
    silence()
    need("peft", "model.adapters")
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    targets = adapter_targets(model, adapters)
    _call_every_layer(model, targets)
    for root, below in _by_root(model, targets).items():
        for entry in dict.fromkeys(target.entry for target in below):
            names = [target.name for target in below if target.entry == entry]
            _inject(model.get_submodule(root), adapters[entry], [name.removeprefix(f"{root}.") for name in names])
    for parameter, was_trainable in before:
        parameter.requires_grad_(was_trainable)
    model.train(model.training)


def _inject(module: Any, adapter: AdapterConfig, names: Sequence[str]) -> None:
    import peft

    config = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # annotated as int, used as a factor
        lora_dropout=adapter.dropout,
        target_modules="|".join(map(re.escape, names)),  # a full match
        use_rslora=adapter.use_rslora,
        use_dora=adapter.use_dora,
    )
    with warnings.catch_warnings():  # of GPT-2's transposed layers, which peft then handles
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        peft.inject_adapter_in_model(config, module, ADAPTER)
    del module.peft_config  # or the next entry would be taken for a second adapter, which is not active


def _call_every_layer(model: nn.Module, targets: Sequence[Target]) -> None:
    """Let attention blocks of timm call a `qkv` that gets an adapter; with a separate bias they read its weight."""
    for target in targets:
        owner = model.get_submodule(target.name.rpartition(".")[0])
        if hasattr(owner, "qkv_bias_separate"):
            owner.qkv_bias_separate = True  # type: ignore[assignment]  # an attribute, not a submodule


def _by_root(model: nn.Module, targets: Sequence[Target]) -> dict[str, list[Target]]:
    """The module that peft is given -> its targets. A transformers model tells peft how its layers are stored."""
    roots = [name for name, module in model.named_modules() if hasattr(module, "is_loaded_in_8bit") or _is_top(name)]
    found: dict[str, list[Target]] = {}
    for target in targets:
        root = max((root for root in roots if target.name.startswith(f"{root}.")), key=len)
        found.setdefault(root, []).append(target)
    return found


def _is_top(name: str) -> bool:
    """Whether a name is that of a component."""
    return bool(name) and name.count(".") == (name.split(".")[0] in ("encoders", "bridges"))


def adapted_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and layer of every layer with an adapter."""
    layers = sys.modules.get("peft.tuners.lora.layer")
    if layers is None:  # peft has not been imported, so there is none
        return
    for name, layer in module.named_modules():
        if isinstance(layer, layers.LoraLayer):
            yield name, layer


def restart_magnitudes(model: nn.Module, loaded: Mapping[str, Any]) -> None:
    """Set the magnitudes of DoRA to the norms of weights that were loaded after the adapters had been put in.

    loaded   names of the loaded tensors; a magnitude among them stays
    """
    for name, layer in adapted_layers(model):
        if not layer.use_dora.get(ADAPTER) or f"{name}.lora_magnitude_vector.{ADAPTER}.weight" in loaded:
            continue
        dora = layer.lora_magnitude_vector[ADAPTER]
        kept = dora.weight  # the optimizer has it already
        matrices = {key: getattr(layer, key)[ADAPTER].weight for key in ("lora_A", "lora_B")}
        dora.update_layer(base_layer=layer.get_base_layer(), scaling=layer.scaling[ADAPTER], **matrices)
        kept.data.copy_(dora.weight.data)
        dora.weight = kept


@torch.no_grad()
def merge_adapters(module: nn.Module) -> int:
    """Add every adapter to the weight of its layer and put the layer back; returns their number.

    raises   ValueError when a merged weight is not finite
    """
    found = list(adapted_layers(module))
    for name, layer in found:
        layer.merge(safe_merge=True, adapter_names=[ADAPTER])
        path, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(path), leaf, layer.get_base_layer())
    return len(found)
