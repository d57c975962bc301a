"""A short proof that weights are the same, whatever holds them: dtype, device, adapters or shards.

A fingerprint is of names, shapes and values. Adapters and parametrizations change names (`q_proj.weight` becomes
`q_proj.base_layer.weight`), sharding hides values on other ranks; `base_name` and `fingerprint` look through both, so a
checkpoint that was trained beside a plain language model fits the same one under LoRA or FSDP2, and the reverse.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

SAMPLED = 1024  # values per tensor that enter a fingerprint
WRAPPED = ("base_layer", "original_module", "token_adapter")  # what peft calls the module that an adapter is put on
ADAPTERS = "adapters"  # first name of what was put on a part: adapters.language.lm....lora_A.default.weight


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Says whether two sets of weights are the same, whatever dtype or device they are held in.

    Names, shapes and about a thousand evenly spread values of each tensor, rounded to bfloat16. It is made to tell
    revisions of a model apart, in a moment, not to withstand forgery. Every rank calls it when a tensor is sharded.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        flat = _whole(tensors[name].detach()).flatten()
        values = flat[:: max(1, flat.numel() // SAMPLED) | 1].to(torch.bfloat16).cpu().view(torch.int16)
        digest.update(f"{name} {tuple(tensors[name].shape)}\n".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]


def is_sharded(tensors: Iterable[Tensor]) -> bool:
    """Whether values of a tensor are on other ranks, which then have to help with its fingerprint."""
    return any(hasattr(tensor, "full_tensor") for tensor in tensors)


def base_names(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """State-dict name -> the name without adapters and parametrizations; tensors that these added are below
    `adapters.`"""
    return {name: base_name(model, name) for name in names}


def base_name(model: nn.Module, name: str) -> str:
    """The name that a tensor of the state dict had before anything was put on its module."""
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
    """The child that an adapter of peft was put on; None for any other module."""
    if not _is_adapter(module):
        return None
    return next(
        (child for child in ("base_layer", "original_module", "token_adapter") if child in module._modules), None
    )


def _is_adapter(module: Any) -> bool:
    """Asked of the classes, not of names: a network may well call a layer of its own `base_layer`. Where peft was never
    imported there are no adapters."""
    layers, wrappers = sys.modules.get("peft.tuners.tuners_utils"), sys.modules.get("peft.utils.other")
    if layers is None or wrappers is None:
        return False
    return isinstance(module, (layers.BaseTunerLayer, wrappers.AuxiliaryTrainingWrapper))


def _whole(tensor: Tensor) -> Tensor:
    """A sharded tensor (DTensor) with the values of all ranks, one tensor at a time; any other as it is."""
    gather: Any = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()
