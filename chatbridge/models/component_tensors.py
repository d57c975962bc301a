"""The tensors of a model by component, and which of them are trainable or frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from chatbridge.models.fingerprints import ADAPTERS, base_names, fingerprint

_GROUPED = ("encoders", "bridges", "generators")  # whose second name is the component's


def component_of(name: str) -> str:
    """The part a tensor belongs to, as the YAML names it: encoders.vision.blocks.0.w -> encoders.vision. Adapters that
    are frozen are a component of their own: adapters.language.lm.x -> adapters.language."""
    first, _, rest = name.partition(".")
    if first == ADAPTERS:
        return f"{first}.{component_of(rest)}"
    return f"{first}.{rest.partition('.')[0]}" if first in _GROUPED else first


def trained_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Everything else that the model would save: frozen parameters and buffers. A second name of a trained tensor
    (tied embeddings) is not frozen."""
    trained = {id(parameter) for parameter in trained_tensors(model).values()}
    state = model.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in state.items() if id(tensor) not in trained}


def by_component(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(component_of(name), {})[name] = tensor
    return groups


def describe_components(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Per component: how much of it trained, how much was frozen, and the fingerprint of the frozen part, which is the
    same under adapters and shards. Every rank calls it when the model is sharded."""
    trained, frozen = by_component(trained_tensors(model)), by_component(under_base_names(model, frozen_tensors(model)))
    described = {}
    for name in sorted(trained.keys() | frozen.keys()):
        still = frozen.get(name, {})
        described[name] = {"trained": _size(trained.get(name, {})), "frozen": _size(still)}
        if still:
            described[name]["frozen"]["fingerprint"] = fingerprint(still)
    return described


def under_base_names(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors by the names they have without adapters; those of adapters are below `adapters.`"""
    names = base_names(model, tensors)
    return {names[name]: tensor for name, tensor in tensors.items()}


def _size(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"tensors": len(tensors), "parameters": sum(tensor.numel() for tensor in tensors.values())}
