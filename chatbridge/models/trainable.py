"""Select the trainable parameters by patterns over state-dict names; by default everything is frozen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from chatbridge.common.errors import ConfigError, Problem, nearest


@dataclass(frozen=True)
class TrainableReport:
    """Trainable and total numbers of parameters; str() is a tree for the log.

    names    trainable parameters, by the first name where one tensor has two
    counts   component or submodule -> (trainable values, all values)
    """

    names: tuple[str, ...]
    counts: dict[str, tuple[int, int]]

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
        lines = []
        for name, (trained, total) in zip(names, self.counts.values(), strict=True):
            state = "frozen" if not trained else "full" if trained == total else f"{_millions(trained)} trainable"
            lines.append(f"{name:<{width}}  {_millions(total):>10}  {state}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values: num_trainable, num_parameters, num_tensors, tree {name: {trainable, total}}."""
        tree = {name: {"trainable": trained, "total": total} for name, (trained, total) in self.counts.items()}
        return {
            "num_trainable": self.num_trainable,
            "num_parameters": self.num_parameters,
            "num_tensors": len(self.names),
            "tree": tree,
        }


def set_trainable(model: nn.Module, patterns: Sequence[str]) -> TrainableReport:
    """Make exactly the parameters trainable that a pattern matches; `*` matches any text, dots included.

    raises   ConfigError when a pattern matches nothing
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    problems = [
        _unmatched(i, pattern, parameters) for i, pattern in enumerate(patterns) if not _hits(pattern, parameters)
    ]
    if problems:
        raise ConfigError(problems)
    trained = {id(parameters[name]) for pattern in patterns for name in _hits(pattern, parameters)}
    for parameter in parameters.values():
        parameter.requires_grad_(id(parameter) in trained)
    model.train(model.training)
    return trainable_report(model)


def trainable_report(model: nn.Module, depth: int = 3) -> TrainableReport:
    """The current report, with `depth` levels of names below encoders and bridges and one level elsewhere."""
    counts: dict[str, tuple[int, int]] = {"model": (0, 0)}
    names = []
    for name, parameter in model.named_parameters():
        path = name.split(".")[:-1] or [name]
        levels = depth if path[0] in ("encoders", "bridges", "generators") else 1
        if parameter.requires_grad:
            names.append(name)
        for node in ["model", *(".".join(path[: level + 1]) for level in range(min(levels, len(path))))]:
            trained, total = counts.get(node, (0, 0))
            counts[node] = (trained + parameter.numel() * parameter.requires_grad, total + parameter.numel())
    return TrainableReport(tuple(names), _condensed(counts))


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
    return Problem(f"model.trainable[{index}]", f"{pattern!r} matches no tensor", allowed=allowed, nearest=guess)


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
