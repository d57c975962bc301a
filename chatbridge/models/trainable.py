"""Select the trainable parameters by patterns over state-dict names; by default everything but adapters is frozen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.models.adapters import AdapterConfig, adapter_problems, adapter_shapes, adapter_targets, described


@dataclass(frozen=True)
class TrainableReport:
    """Trainable and total numbers of parameters; str() is a tree for the log.

    names      trainable parameters, by the first name where one tensor has two
    counts     component or submodule -> (trainable values, all values), adapters included
    adapted    component or submodule -> values of its adapters, where it has any
    lr_scales  component or submodule -> lowest and highest factor on the learning rate, where one is not 1
    entries    a line for each entry of model.adapters
    """

    names: tuple[str, ...]
    counts: dict[str, tuple[int, int]]
    adapted: dict[str, int] = field(default_factory=dict)
    lr_scales: dict[str, tuple[float, float]] = field(default_factory=dict)
    entries: tuple[str, ...] = ()

    @property
    def num_trainable(self) -> int:
        """Number of trainable values of the model."""
        return self.counts["model"][0]

    @property
    def num_parameters(self) -> int:
        """Number of all values of the model."""
        return self.counts["model"][1]

    def __str__(self) -> str:
        names = [("  " * (name.count(".") + (name != "model")) + name.rpartition(".")[2]) for name in self.counts]
        width = max(map(len, names))
        rows = zip(names, self.counts, strict=True)
        tree = [f"{shown:<{width}}  {_millions(self.counts[name][1]):>10}  {self._state(name)}" for shown, name in rows]
        return "\n".join([*tree, *self.entries])

    def with_lr_scales(self, scales: Mapping[str, float]) -> TrainableReport:
        """The report with the factors on the learning rate. scales: trainable name -> its factor"""
        found: dict[str, tuple[float, float]] = {}
        for name, scale in scales.items():
            for node in ("model", *_nodes(name, name.count("."))):
                if node in self.counts:
                    low, high = found.get(node, (scale, scale))
                    found[node] = (min(low, scale), max(high, scale))
        return replace(self, lr_scales={node: pair for node, pair in found.items() if pair != (1.0, 1.0)})

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values: num_trainable, num_parameters, num_tensors, tree {name: {trainable, total}}, with
        `adapters` where a part has some."""
        tree = {name: {"trainable": trained, "total": total} for name, (trained, total) in self.counts.items()}
        for name, adapted in self.adapted.items():
            tree[name]["adapters"] = adapted
        return {
            "num_trainable": self.num_trainable,
            "num_parameters": self.num_parameters,
            "num_tensors": len(self.names),
            "tree": tree,
        }

    def _state(self, name: str) -> str:
        """frozen, full, LoRA, or what of it is trainable; and the factor on the learning rate."""
        (trained, total), adapted = self.counts[name], self.adapted.get(name, 0)
        if not trained:
            return "frozen"
        state = "full" if trained == total else f"{_millions(trained)} trainable"
        if adapted:
            is_all = adapted == trained
            state = f"LoRA, {_millions(trained)} trainable" if is_all else f"{state}, {_millions(adapted)} of them LoRA"
        low, high = self.lr_scales.get(name, (1.0, 1.0))
        scale = f", lr x {low:g}" if low == high else f", lr x {low:g} to {high:g}"
        return state if (low, high) == (1.0, 1.0) else state + scale


def set_trainable(model: nn.Module, patterns: Sequence[str], adapters: Sequence[AdapterConfig] = ()) -> TrainableReport:
    """Make exactly the parameters trainable that a pattern matches; `*` matches any text, dots included.

    adapters  will be put into the model later, when its weights are in; the report counts them already
    raises    ConfigError when a pattern matches nothing, or an adapter cannot be put where it should
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    problems = [
        _unmatched(i, pattern, parameters) for i, pattern in enumerate(patterns) if not _hits(pattern, parameters)
    ]
    trained = {id(parameters[name]) for pattern in patterns for name in _hits(pattern, parameters)}
    for parameter in parameters.values():
        parameter.requires_grad_(id(parameter) in trained)
    if problems := problems + adapter_problems(model, adapters):
        raise ConfigError(problems)
    model.train(model.training)
    return trainable_report(model, adapters=adapters)


def trainable_report(model: nn.Module, depth: int = 3, adapters: Sequence[AdapterConfig] = ()) -> TrainableReport:
    """The current report, with `depth` levels of names below encoders and bridges and one level elsewhere.

    adapters   not in the model yet, but counted
    """
    counts: dict[str, tuple[int, int]] = {"model": (0, 0)}
    adapted: dict[str, int] = {}
    names = []
    for name, size, is_trainable in [*_sizes(model), *_future_sizes(model, adapters)]:
        levels = depth if name.split(".")[0] in ("encoders", "bridges", "generators") else 1
        if is_trainable:
            names.append(name)
        for node in ("model", *_nodes(name, levels)):
            trained, total = counts.get(node, (0, 0))
            counts[node] = (trained + size * is_trainable, total + size)
            if is_trainable and ".lora_" in name:
                adapted[node] = adapted.get(node, 0) + size
    kept = _condensed(counts)
    own = {node: size for node, size in adapted.items() if node in kept}
    return TrainableReport(tuple(names), kept, own, entries=described(adapter_targets(model, adapters), adapters))


def _sizes(model: nn.Module) -> Iterator[tuple[str, int, bool]]:
    """Name, number of values and state of every parameter. Of one in 4 bit, whose storage has two values a byte, the
    number before quantization."""
    for name, parameter in model.named_parameters():
        shape = getattr(getattr(parameter, "quant_state", None), "shape", parameter.shape)
        yield name, shape.numel(), parameter.requires_grad


def _future_sizes(model: nn.Module, adapters: Sequence[AdapterConfig]) -> Iterator[tuple[str, int, bool]]:
    for name, shape in adapter_shapes(adapter_targets(model, adapters), adapters).items():
        yield name, math.prod(shape), True


def _nodes(name: str, levels: int) -> list[str]:
    """The component and submodules of a tensor, down to `levels`: encoders, encoders.vision, ..."""
    path = name.split(".")[:-1] or [name]
    return [".".join(path[: level + 1]) for level in range(min(levels, len(path)))]


def keep_frozen_in_eval(module: nn.Module) -> None:
    """Set every submodule whose parameters are all frozen to eval mode.

    Modules without parameters (dropout) follow the module they belong to.
    """
    own = list(module.parameters())
    if own and not any(parameter.requires_grad for parameter in own):
        module.eval()
        return
    for child in module.children():
        keep_frozen_in_eval(child)


def _hits(pattern: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name == pattern or fnmatchcase(name, pattern)]  # a token's name may have brackets


def _unmatched(index: int, pattern: str, names: Iterable[str]) -> Problem:
    prefixes = {".".join(name.split(".")[:levels]) + ".*" for name in names for levels in (1, 2, 3)}
    allowed = tuple(sorted(prefix for prefix in prefixes if prefix.count(".") <= 2))
    guess = nearest(pattern, (*prefixes, *names))
    hint = "adapters (model.adapters) train without being named here" if "lora" in pattern else None
    message = f"{pattern!r} matches no tensor"
    return Problem(f"model.trainable[{index}]", message, allowed=allowed, nearest=guess, hint=hint)


def _condensed(counts: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The counts without submodules of frozen components and without those that equal their parent."""
    kept = {}
    for name, numbers in counts.items():
        parent = counts.get(name.rpartition(".")[0])
        inner = name.count(".") > 1
        if not (inner and parent is not None and (parent == numbers or not parent[0])):
            kept[name] = numbers
    return kept


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k" if count >= 1e3 else str(count)
