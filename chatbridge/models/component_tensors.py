"""The tensors of a model by component, and which of them are trainable or frozen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from chatbridge.models.adapters import is_linear
from chatbridge.models.fingerprints import ADAPTERS, base_name, base_names, fingerprint

_GROUPED = ("encoders", "bridges", "generators")  # their second name is the name of the component


def component_of(name: str) -> str:
    """The component of a tensor by its YAML name: encoders.vision.blocks.0.w -> encoders.vision.

    Frozen adapters form a component of their own: adapters.language.lm.x -> adapters.language.
    """
    first, _, rest = name.partition(".")
    if first == ADAPTERS:
        return f"{first}.{component_of(rest)}"
    return f"{first}.{rest.partition('.')[0]}" if first in _GROUPED else first


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name, in the order of the model."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Frozen parameters and stored buffers by name, each of any dtype and shape [...].

    A second name of a trainable tensor (tied embeddings) is left out.
    """
    trained = {id(parameter) for parameter in trainable_parameters(model).values()}
    state = model.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in state.items() if id(tensor) not in trained}


def carry(model: Any, names: Iterable[str]) -> None:
    """Let the checkpoints of this run hold these frozen tensors too: another run trained them, so no weights file has
    them.

    names    state-dict names
    raises   ValueError when one is spread over the ranks
    """
    state = model.state_dict(keep_vars=True)
    names = frozenset(names)
    if spread := [name for name in names if hasattr(state[name], "full_tensor")]:
        raise ValueError(
            f"{len(spread)} frozen tensors of the language model would have to be in every checkpoint, but are spread "
            f"over the ranks, for example {min(spread)}; write the language model of that run to a folder (chatbridge "
            "export RUN --component language --out FOLDER) and set model.language.weights to it"
        )
    model.carried = names


def carried_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The frozen tensors [...] that `carry` named, by their names without adapters."""
    names = getattr(model, "carried", frozenset())
    state = model.state_dict() if names else {}
    return under_base_names(model, {name: state[name] for name in sorted(names)})


def is_without_file(model: nn.Module, component: str) -> bool:
    """Whether no weights file of the configuration fills a component, so that it has random initial values."""
    filled = getattr(model, "filled", frozenset())
    is_planned = not filled and getattr(getattr(model, "config", None), "weights", None) is not None  # not read yet
    if component in filled or (is_planned and component.startswith(("bridges.", "fusion"))):
        return False
    if component == "fusion":
        return True
    kind, _, name = component.partition(".")
    part: Any = getattr(model, kind, None)
    part = part[name] if kind in _GROUPED and part is not None and name in part else part
    config = getattr(part, "config", None)
    if config is None or not hasattr(config, "weights"):
        return False
    return config.weights is None and not (part.files() if hasattr(part, "files") else ())


def frozen_at_random(model: nn.Module) -> list[str]:
    """Components that no file fills and without a trainable tensor: a checkpoint does not hold their values."""
    trained = by_component(trainable_parameters(model))
    frozen = by_component(frozen_tensors(model)).keys() - trained.keys()
    return sorted(name for name in frozen if is_without_file(model, name))


def by_component(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Component -> its tensors by full name, in any dtype and shape [...]."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(component_of(name), {})[name] = tensor
    return groups


def describe_components(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Component -> number of trainable and frozen tensors and values, and the fingerprint of the frozen ones.

    Frozen tensors that its checkpoints hold (`carry`) are not counted. The fingerprint does not depend on adapters or
    sharding. That of a language model in 8 or 4 bits does depend on them (`bits`), so it has a second one, of the
    tensors that keep their values (`unquantized`).
    Every rank must call it when the model is sharded.
    """
    trained = by_component(trainable_parameters(model))
    held = getattr(model, "carried", frozenset())
    still = {name: tensor for name, tensor in frozen_tensors(model).items() if name not in held}
    frozen = by_component(under_base_names(model, still))
    described = {}
    for name in sorted(trained.keys() | frozen.keys()):
        still = frozen.get(name, {})
        described[name] = {"trained": _size(trained.get(name, {})), "frozen": _size(still)}
        if still:
            described[name]["frozen"]["fingerprint"] = fingerprint(still)
        if still and name == "language":
            described[name]["frozen"]["unquantized"] = fingerprint(unquantized(model, still))
            if bits := stored_bits(model):
                described[name]["frozen"]["bits"] = bits
    return described


def stored_bits(model: nn.Module) -> int | None:
    """Bits of a weight of the language model that bitsandbytes stores, 8 or 4; None without quantization."""
    lm = getattr(getattr(model, "language", None), "lm", None)
    return 8 if getattr(lm, "is_loaded_in_8bit", False) else 4 if getattr(lm, "is_loaded_in_4bit", False) else None


def unquantized(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the tensors [...] by their base names that quantization leaves as they are: all but linear layers'."""
    linear = {base_name(model, name) for name, module in model.named_modules() if is_linear(module)}
    return {name: tensor for name, tensor in tensors.items() if not _is_below(name, linear)}


def _is_below(name: str, modules: Collection[str]) -> bool:
    """Whether a tensor belongs to one of the modules: q_proj.weight, or q_proj.weight.absmax of a weight in 4 bits."""
    return any(name[:at] in modules for at, letter in enumerate(name) if letter == ".")


def under_base_names(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors [...] by their names without adapters; tensors of adapters get the prefix `adapters.`"""
    names = base_names(model, tensors)
    return {names[name]: tensor for name, tensor in tensors.items()}


def without_adapters(module: nn.Module) -> dict[str, Tensor]:
    """The tensors [...] of a model or a part by the names that weights files have: those of adapters are left out."""
    state = under_base_names(module, module.state_dict())
    return {name: value for name, value in state.items() if not name.startswith(f"{ADAPTERS}.")}


def under_own_names(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors [...] of a model without adapters, by the names that they have in this one: q_proj.weight becomes
    q_proj.base_layer.weight beside an adapter. Names that this model has, or does not know, stay."""
    own = model.state_dict()
    renamed = {base: name for name, base in base_names(model, own).items() if base != name}
    return {name if name in own else renamed.get(name, name): tensor for name, tensor in tensors.items()}


def _size(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"tensors": len(tensors), "parameters": sum(tensor.numel() for tensor in tensors.values())}
