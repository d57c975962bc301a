"""Short hashes of weights that do not depend on dtype, device, adapters or sharding.

Adapters and parametrizations change names (`q_proj.weight` becomes `q_proj.base_layer.weight`); sharding puts values
on other ranks. `base_name` and `fingerprint` undo both, so a checkpoint that was trained with a plain language model
also fits the same model under LoRA or FSDP2, and the reverse.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

SAMPLED = 1024  # values per tensor that a fingerprint uses
WRAPPED = ("base_layer", "original_module", "token_adapter")  # peft's names of a wrapped module
ADAPTERS = "adapters"  # first name of the tensors of adapters: adapters.language.lm....lora_A.default.weight


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and about a thousand evenly spread values of each tensor, rounded to bfloat16.

    It distinguishes revisions of a model quickly; it is not a protection against forgery. Every rank must call it when
    a tensor is sharded.
    tensors   name -> float[...] of any dtype and device
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        flat = _whole(tensors[name].detach()).flatten()
        values = flat[:: max(1, flat.numel() // SAMPLED) | 1].to(torch.bfloat16).cpu().view(torch.int16)
        digest.update(f"{name} {tuple(tensors[name].shape)}\n".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]


def is_sharded(tensors: Iterable[Tensor]) -> bool:
    """Whether any tensor [...] has values on other ranks; then every rank must call `fingerprint`."""
    return any(hasattr(tensor, "full_tensor") for tensor in tensors)


def base_names(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """State-dict name -> the name without adapters and parametrizations; their own tensors get `adapters.` in front."""
    return {name: base_name(model, name) for name in names}


def base_name(model: nn.Module, name: str) -> str:
    """The name of a state-dict tensor before its module was wrapped or parametrized."""
    kept: list[str] = []
    module: Any = model
    left = name.split(".")
    while left:
        step = left.pop(0)
        wrapped = _wrapped_child(module)
        if wrapped is not None and step != wrapped:
            return f"{ADAPTERS}.{name}"
        if step == "parametrizations" and parametrize.is_parametrized(module):
            if left[-1:] == ["original"] and len(left) == 2:
                return ".".join([*kept, left[0]])
            if left[-1].startswith("original"):  # several tensors in place of one, as weight_norm keeps them
                return name
            return f"{ADAPTERS}.{name}"
        if wrapped is None:
            kept.append(step)
        module = module._modules.get(step) if isinstance(module, nn.Module) else None
    return ".".join(kept)


def _wrapped_child(module: Any) -> str | None:
    """The name of the module that an adapter of peft wraps; None for any other module."""
    return next((child for child in WRAPPED if child in module._modules), None) if _is_adapter(module) else None


def _is_adapter(module: Any) -> bool:
    """Whether a module is an adapter of peft, by its class: a network may name a layer of its own `base_layer`.

    If peft has not been imported there are no adapters.
    """
    layers, wrappers = sys.modules.get("peft.tuners.tuners_utils"), sys.modules.get("peft.utils.other")
    if layers is None or wrappers is None:
        return False
    return isinstance(module, (layers.BaseTunerLayer, wrappers.AuxiliaryTrainingWrapper))


def _whole(tensor: Tensor) -> Tensor:
    """A sharded tensor (DTensor) with the values of all ranks; any other tensor unchanged."""
    if not is_sharded([tensor]):
        return tensor
    sharded: Any = tensor
    return sharded.to(sharded.device_mesh.device_type).full_tensor()  # offloaded rows travel from there
