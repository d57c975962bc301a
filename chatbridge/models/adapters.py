"""The `model.adapters` setting: which linear layers get low-rank matrices (LoRA), and of which size.

A pattern of `targets` is compared with the name of a layer (language.lm.model.layers.0.self_attn.q_proj) and with that
of its weight, as in `trainable`. The layers keep their weights; `adapter_layers.inject_adapters` wraps them once the
weights are in. So everything here works on a model that is still without weights.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from torch import nn

from chatbridge.common.errors import Problem, nearest, some
from chatbridge.common.extras import how_to_install
from chatbridge.config.constraints import Length, Range

ADAPTER = "default"  # name of the adapter in state dicts, peft's own: q_proj.lora_A.default.weight
PATH = "model.adapters"


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Low-rank matrices beside linear layers (LoRA, Hu et al. 2021). They train; the layers stay frozen."""

    # patterns over state-dict names of linear layers in any component, e.g. "language.*q_proj", "encoders.vision.*"
    targets: Annotated[tuple[str, ...], Length(low=1)]
    kind: Literal["lora"] = "lora"  # lora: W x + (alpha / rank) * B A x, with B = 0 at the start
    rank: Annotated[int, Range(low=1)] = 8  # rows of A and columns of B
    alpha: Annotated[float, Range(above=0)] = 16.0  # the update is scaled by alpha / rank
    dropout: Annotated[float, Range(low=0, below=1)] = 0.0  # of the input of A, in training
    use_rslora: bool = False  # scale by alpha / sqrt(rank), which is stable for high ranks (Kalajdzievski 2023)
    use_dora: bool = False  # a trainable magnitude per output beside the direction (DoRA, Liu et al. 2024); slower


@dataclass(frozen=True)
class Target:
    """A linear layer that an adapter is put beside.

    entry   index in model.adapters
    name    state-dict name of the layer
    sizes   inputs and outputs of the layer
    """

    entry: int
    name: str
    sizes: tuple[int, int]


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> the linear layers of a model without adapters. One that its owner never calls is left out."""
    found = {}
    for name, module in model.named_modules():
        for child, layer in module.named_children():
            is_called = not isinstance(module, nn.MultiheadAttention)  # it reads the weight of its out_proj itself
            if is_called and is_linear(layer):
                found[f"{name}.{child}" if name else child] = layer
    return found


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer: of torch, GPT-2's transposed one, or one that bitsandbytes stores."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def adapter_targets(model: nn.Module, adapters: Sequence[AdapterConfig]) -> list[Target]:
    """The layers of all entries, by entry, in the order of the model; the model has no adapters yet."""
    layers = linear_layers(model)
    return [
        Target(entry, name, sizes(layers[name]))
        for entry, adapter in enumerate(adapters)
        for name in layers
        if any(_matches(pattern, name) for pattern in adapter.targets)
    ]


def adapter_shapes(targets: Iterable[Target], adapters: Sequence[AdapterConfig]) -> dict[str, tuple[int, ...]]:
    """State-dict name -> shape of every tensor that `inject_adapters` adds."""
    shapes: dict[str, tuple[int, ...]] = {}
    for target in targets:
        adapter, (num_in, num_out) = adapters[target.entry], target.sizes
        shapes[f"{target.name}.lora_A.{ADAPTER}.weight"] = (adapter.rank, num_in)
        shapes[f"{target.name}.lora_B.{ADAPTER}.weight"] = (num_out, adapter.rank)
        if adapter.use_dora:
            shapes[f"{target.name}.lora_magnitude_vector.{ADAPTER}.weight"] = (num_out,)
    return shapes


def described(targets: Sequence[Target], adapters: Sequence[AdapterConfig]) -> tuple[str, ...]:
    """A line for each entry: number of layers, rank, alpha and patterns."""
    lines = []
    for entry, adapter in enumerate(adapters):
        count = sum(target.entry == entry for target in targets)
        kind = "DoRA" if adapter.use_dora else "LoRA"
        what = f"{kind} of rank {adapter.rank}, alpha {adapter.alpha:g}"
        lines.append(f"{what}, on {count} layers: {', '.join(adapter.targets)}")
    return tuple(lines)


def sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer, also of GPT-2's Conv1D and of one that bitsandbytes stores."""
    if is_transposed(layer):
        num_in, num_out = layer.weight.shape  # type: ignore[union-attr]
        return int(num_in), int(num_out)
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


def package_problems(adapters: Sequence[AdapterConfig]) -> Iterator[Problem]:
    """A problem when adapters are set and peft is not installed; the path is relative to `model`."""
    if adapters and find_spec("peft") is None:
        yield Problem("adapters", f"need the package 'peft'; {how_to_install('peft')}")


def adapter_problems(model: Any, adapters: Sequence[AdapterConfig]) -> list[Problem]:
    """All problems of model.adapters with a model whose trainable parameters are marked and that has no adapters yet.

    A pattern without a linear layer, a layer of two entries, a rank above the sizes of a layer, a layer whose own
    weights train, and a head that other rows or the embedding depend on.
    """
    if not adapters:
        return []
    layers, targets = linear_layers(model), adapter_targets(model, adapters)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    problems = [
        problem for entry, adapter in enumerate(adapters) for problem in _unmatched(entry, adapter, layers, names)
    ]
    problems += _shared(targets)
    problems += _too_large(targets, adapters)
    problems += _trained(targets, layers)
    return problems + list(_on_the_head(model, targets, layers))


def _unmatched(entry: int, adapter: AdapterConfig, layers: Iterable[str], tensors: Sequence[str]) -> Iterator[Problem]:
    """Patterns that match no linear layer."""
    parts = tuple(dict.fromkeys(_part(name) for name in layers))
    for number, pattern in enumerate(adapter.targets):
        if any(_matches(pattern, name) for name in layers):
            continue
        path = f"{PATH}[{entry}].targets[{number}]"
        found = [name for name in tensors if fnmatchcase(name, pattern)]
        what = f"matches {len(found)} tensors, none of a linear layer" if found else "matches no linear layer"
        guess = nearest(pattern, (*layers, *parts, *_shortened(layers)))
        hint = "adapters are for linear layers; train other tensors through model.trainable" if found else None
        yield Problem(path, f"{pattern!r} {what}", allowed=parts, nearest=guess, hint=hint)


def _shared(targets: Sequence[Target]) -> Iterator[Problem]:
    """Layers that two entries match, one problem for each pair of entries."""
    owner: dict[str, int] = {}
    pairs: dict[tuple[int, int], list[str]] = {}
    for target in targets:
        first = owner.setdefault(target.name, target.entry)
        if first != target.entry:
            pairs.setdefault((first, target.entry), []).append(target.name)
    for (first, second), names in pairs.items():
        message = f"matches layers that {PATH}[{first}] has too: {some(names)}"
        hint = "a layer has one adapter: make the patterns of one of the two narrower"
        yield Problem(f"{PATH}[{second}].targets", message, hint=hint)


def _too_large(targets: Sequence[Target], adapters: Sequence[AdapterConfig]) -> Iterator[Problem]:
    """Ranks above the smaller size of a layer."""
    for entry, adapter in enumerate(adapters):
        small = min((one for one in targets if one.entry == entry), key=lambda one: min(one.sizes), default=None)
        if small is not None and adapter.rank > min(small.sizes):
            num_in, num_out = small.sizes
            message = f"is {adapter.rank}, but {small.name} has {num_in} inputs and {num_out} outputs"
            hint = f"a rank of at most {min(small.sizes)}, or targets without this layer"
            yield Problem(f"{PATH}[{entry}].rank", message, hint=hint)


def _trained(targets: Sequence[Target], layers: dict[str, nn.Module]) -> Iterator[Problem]:
    """Layers whose own weights train."""
    for entry in dict.fromkeys(target.entry for target in targets):
        own = [one.name for one in targets if one.entry == entry]
        if trained := [name for name in own if any(p.requires_grad for p in layers[name].parameters())]:
            message = f"matches layers that model.trainable trains in full: {some(trained)}"
            hint = "an adapter needs a frozen layer: remove these from model.trainable, or from the targets"
            yield Problem(f"{PATH}[{entry}].targets", message, hint=hint)


def _on_the_head(model: Any, targets: Sequence[Target], layers: dict[str, nn.Module]) -> Iterator[Problem]:
    """An adapter on the language model's head, where its weight is the embedding's or added tokens extend it."""
    try:
        embedding, head = model.language.vocabulary_modules
    except (AttributeError, ValueError):  # a model without a vocabulary that it exposes
        return
    for target in targets:
        if layers[target.name] is not head:
            continue
        reason = "extended by model.added_tokens" if getattr(model, "added_tokens", None) is not None else None
        reason = "the embedding too (tied weights)" if head.weight is embedding.weight else reason
        if reason is not None:
            hint = "name the layers below it, for example with a pattern over the decoder layers"
            message = f"matches {target.name}, the head of the language model, which is {reason}"
            yield Problem(f"{PATH}[{target.entry}].targets", message, hint=hint)


def _matches(pattern: str, layer: str) -> bool:
    return fnmatchcase(layer, pattern) or fnmatchcase(f"{layer}.weight", pattern)


def _part(layer: str) -> str:
    """The pattern of all layers of a component: encoders.vision.*, language.*"""
    first, second, *_ = layer.split(".")
    return f"{first}.{second}.*" if first in ("encoders", "bridges") else f"{first}.*"


def _shortened(layers: Iterable[str]) -> Iterator[str]:
    """Patterns of the usual form: component and last name, language.*q_proj"""
    yield from dict.fromkeys(f"{_part(name)}{name.rpartition('.')[2]}" for name in layers)


def is_transposed(module: nn.Module) -> bool:
    """Whether a module is a linear layer of GPT-2, which stores its weight as [in, out]."""
    kinds = sys.modules.get("transformers.pytorch_utils")
    return kinds is not None and isinstance(module, kinds.Conv1D)
