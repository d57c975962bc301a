"""Learning rate and weight decay per name pattern (`run.optimizer.groups`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated

from chatbridge.common.errors import ConfigError, Problem, nearest, some
from chatbridge.config.schema import Length, Range

PATH = "run.optimizer.groups"


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """Learning rate and weight decay of the trainable tensors that match; the others have those of the optimizer."""

    match: Annotated[tuple[str, ...], Length(low=1)]  # patterns over names of trainable tensors, e.g. "*.lora_*"
    exclude: tuple[str, ...] = ()  # patterns of tensors that `match` matches and that are not in the group
    lr: Annotated[float, Range(above=0)] | None = None  # in place of optimizer.lr; the schedule scales both alike
    lr_scale: Annotated[float, Range(above=0)] | None = None  # the same as a factor on optimizer.lr
    # of every tensor of the group, whatever optimizer.decay_vectors says; null: as without the group
    weight_decay: Annotated[float, Range(low=0)] | None = None

    def problems(self) -> Iterator[Problem | str]:
        if self.lr is not None and self.lr_scale is not None:
            yield Problem("lr_scale", "is set beside lr, which sets the same", hint="keep one of the two")
        if self.lr is None and self.lr_scale is None and self.weight_decay is None:
            yield "changes nothing; give lr, lr_scale or weight_decay, or remove the group"

    def scale(self, peak_lr: float) -> float:
        """The factor on the learning rate of a run whose optimizer.lr is `peak_lr`."""
        return self.lr / peak_lr if self.lr is not None else self.lr_scale or 1.0

    def has(self, name: str) -> bool:
        """Whether a tensor is in the group."""
        return _hit(self.match, name) and not _hit(self.exclude, name)


def lr_problems(groups: Sequence[GroupConfig], peak_lr: float) -> Iterator[Problem]:
    """Groups with a learning rate of their own that the schedule cannot scale; paths relative to `optimizer`."""
    for number, group in enumerate(groups):
        if group.lr is not None and not peak_lr:
            hint = "set optimizer.lr above 0, or give the group lr_scale"
            message = "follows the schedule in proportion to optimizer.lr, which is 0"
            yield Problem(f"groups[{number}].lr", message, hint=hint)


def group_problems(groups: Sequence[GroupConfig], names: Sequence[str], others: Sequence[str] = ()) -> list[Problem]:
    """All problems of the groups with the names of the trainable tensors: patterns without a match, overlaps.

    others   tensors that may train once other mistakes are mended; a pattern that matches one of them may be right
    """
    return [*_unmatched(groups, names, others), *_overlaps(groups, names)]


def groups_of(groups: Sequence[GroupConfig], names: Sequence[str]) -> dict[str, GroupConfig | None]:
    """Name of each trainable tensor -> its group; None: it has the settings of the optimizer.

    raises   ConfigError with all patterns that match nothing and all tensors of two groups
    """
    if problems := group_problems(groups, names):
        raise ConfigError(problems)
    return {name: next((group for group in groups if group.has(name)), None) for name in names}


def lr_scales(groups: Sequence[GroupConfig], names: Sequence[str], peak_lr: float) -> Mapping[str, float]:
    """Name of each trainable tensor -> factor on its learning rate. raises ConfigError, see groups_of"""
    return {name: group.scale(peak_lr) if group else 1.0 for name, group in groups_of(groups, names).items()}


def _unmatched(groups: Sequence[GroupConfig], names: Sequence[str], others: Sequence[str]) -> Iterator[Problem]:
    """Patterns that no trainable tensor matches."""
    for number, group in enumerate(groups):
        path = f"{PATH}[{number}]"
        for at, pattern in enumerate(group.match):
            found = [name for name in names if fnmatchcase(name, pattern)]
            if not found and any(fnmatchcase(name, pattern) for name in others):
                continue
            if not found:
                message = f"{pattern!r} matches no trainable tensor"
                hint = "what trains is named by model.trainable and model.adapters"
                guess = nearest(pattern, (*_starts(names), *names))
                yield Problem(f"{path}.match[{at}]", message, allowed=_starts(names), nearest=guess, hint=hint)
            elif not any(map(group.has, found)):
                yield Problem(f"{path}.match[{at}]", f"{pattern!r} matches only tensors that exclude takes out again")
        matched = [name for name in names if _hit(group.match, name)]
        for at, pattern in enumerate(group.exclude):
            if matched and not any(fnmatchcase(name, pattern) for name in matched):
                message = f"{pattern!r} takes out none of the {len(matched)} tensors that match has"
                yield Problem(f"{path}.exclude[{at}]", message, nearest=nearest(pattern, matched))


def _overlaps(groups: Sequence[GroupConfig], names: Sequence[str]) -> Iterator[Problem]:
    """Tensors of two groups, one problem for each pair."""
    for second, group in enumerate(groups):
        for first in range(second):
            if both := [name for name in names if groups[first].has(name) and group.has(name)]:
                message = f"matches tensors that {PATH}[{first}] has too: {some(both)}"
                hint = "a tensor has one learning rate: make a pattern narrower, or use exclude"
                yield Problem(f"{PATH}[{second}].match", message, hint=hint)


def _hit(patterns: Sequence[str], name: str) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _starts(names: Sequence[str]) -> tuple[str, ...]:
    """The patterns of the components: bridges.perceiver.*, language.*"""
    levels = {"encoders": 2, "bridges": 2, "added_tokens": 2}
    firsts = (name.split(".") for name in names)
    return tuple(dict.fromkeys(".".join(path[: levels.get(path[0], 1)]) + ".*" for path in firsts))
