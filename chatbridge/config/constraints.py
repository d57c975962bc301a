"""Constraints on the fields of a Config, beside their types: `Annotated[float, Unit("ms"), Range(above=0)]`.

A constraint is any object with `phrase` (completes "expected a number ...") and `check(value)` (None, or the problem).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from chatbridge.common.errors import Problem, nearest
from chatbridge.config.registry import Registry

T = TypeVar("T")


@dataclass(frozen=True)
class Choice(Generic[T]):
    """A registered part selected by `name`; `choice.part(choice.config, ...)` builds it."""

    name: str
    config: Any
    part: type[T]


@dataclass(frozen=True)
class PartOf:
    """`Annotated[Choice[Encoder], PartOf(ENCODERS)]` reads {name: eva_vit, ...the fields of EvaViT.Config}."""

    registry: Registry[Any]


class Names(Protocol):
    """An object with registered names: a registry of parts, or the modalities."""

    @property
    def kind(self) -> str: ...

    def names(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class NameIn:
    """`Annotated[str, NameIn(TEMPLATES)]` is the name of a registered part, without settings."""

    registry: Names

    @property
    def phrase(self) -> str:
        return f"that names a {self.registry.kind}"

    def check(self, value: str) -> Problem | None:
        names = self.registry.names()
        if value in names:
            return None
        message = f"there is no {self.registry.kind} named {value!r}"
        return Problem("", message, allowed=names, nearest=nearest(value, names))


@dataclass(frozen=True)
class Unit:
    """The unit of a number, for messages only."""

    unit: str

    @property
    def phrase(self) -> str:
        return f"in {self.unit}"

    def check(self, value: Any) -> None:
        return None


@dataclass(frozen=True)
class Range:
    """Bounds of a number: `low` and `high` are inclusive, `above` and `below` exclusive."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    @property
    def phrase(self) -> str:
        if self.low is not None and self.high is not None:
            return f"from {_shortest(self.low)} to {_shortest(self.high)}"
        bounds = (("of at least", self.low), ("above", self.above), ("of at most", self.high), ("below", self.below))
        return " and ".join(f"{word} {_shortest(bound)}" for word, bound in bounds if bound is not None)

    def check(self, value: float) -> str | None:
        inside = (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        return None if inside else f"is {value}, expected a value {self.phrase}"


def _shortest(bound: float) -> float:
    """0.0 as 0: typing keeps one object for Range(low=0) and Range(low=0.0), whichever module is imported first."""
    return int(bound) if math.isfinite(bound) and bound == int(bound) else bound


@dataclass(frozen=True)
class Length:
    """The number of items that a list or mapping may have."""

    low: int = 0
    high: int | None = None

    @property
    def phrase(self) -> str:
        if self.high is None:
            return f"with at least {self.low} {'item' if self.low == 1 else 'items'}"
        return f"with {self.low} to {self.high} items" if self.low != self.high else f"with {self.low} items"

    def check(self, value: Sized) -> str | None:
        inside = self.low <= len(value) and (self.high is None or len(value) <= self.high)
        return None if inside else f"has {len(value)} items, expected a value {self.phrase}"


@dataclass(frozen=True)
class Exists:
    """The path must exist when the configuration is read."""

    kind: Literal["file", "folder", "any"] = "any"

    @property
    def phrase(self) -> str:
        return "of an existing file or folder" if self.kind == "any" else f"of an existing {self.kind}"

    def check(self, value: str | Path) -> Problem | None:
        return missing_path(value, self.kind)


@dataclass(frozen=True)
class Folder:
    """The path is a folder, or does not exist yet and can be created."""

    @property
    def phrase(self) -> str:
        return "of a folder"

    def check(self, value: Path) -> str | None:
        taken = next((path for path in (value, *value.parents) if os.path.exists(path)), None)
        return None if taken is None or taken.is_dir() else f"{value} cannot be a folder: {taken} is a {_what(taken)}"


@dataclass(frozen=True)
class Formerly:
    """Names of this field in LAVIS, MiniGPT-4 or an older ChatBridge, used only for hints."""

    names: tuple[str, ...]

    def __init__(self, *names: str):
        object.__setattr__(self, "names", names)


@dataclass(frozen=True)
class OldName:
    """A former name of this field that a YAML and a checkpoint may still use."""

    name: str


@dataclass(frozen=True)
class Help:
    """The value that belongs here and where to get it. A comment beside the field becomes Help automatically."""

    text: str


def _what(path: Path) -> str:
    return "folder" if path.is_dir() else "file" if path.is_file() else "pipe or a device"


_absent: ContextVar[list[Path] | None] = ContextVar("absent", default=None)


@contextmanager
def absent_files_noted() -> Iterator[list[Path]]:
    """While it is open, a file or folder that does not exist is noted in the list instead of being a problem: a run is
    planned before its weights and data are on the disk."""
    noted: list[Path] = []
    token = _absent.set(noted)
    try:
        yield noted
    finally:
        _absent.reset(token)


def is_noted_as_absent(path: Path) -> bool:
    """Note a path if it does not exist and `absent_files_noted` is open; returns whether it was noted."""
    noted = _absent.get()
    if noted is None or os.path.lexists(path):
        return False
    noted.append(path)
    return True


def missing_path(path: str | Path, kind: Literal["file", "folder", "any"] = "any") -> Problem | None:
    """Return the problem of a path that does not exist or is of the wrong kind; None if it is fine.

    The problem's path is "": yield it from `Config.problems()` after `dataclasses.replace(problem, path=...)`.
    """
    path = Path(path)
    try:
        good = path.exists() if kind == "any" else path.is_file() if kind == "file" else path.is_dir()
        if good:
            return None
        if path.exists():
            return Problem("", f"{path} is a {_what(path)}, expected a {kind}")
        if is_noted_as_absent(path):
            return None
        message = f"there is no {'file or folder' if kind == 'any' else kind} {path}"
        return Problem("", message, **_nearest_existing(path), is_absent=True)
    except OSError as error:  # no permission, name too long
        return Problem("", f"{path} cannot be accessed: {error.strerror}")


def _nearest_existing(path: Path) -> dict[str, Any]:
    """Return the most similar name in the folder, or the last folder of the path that exists."""
    folder = path.parent
    if folder.is_dir():
        found = nearest(path.name, (item.name for item in folder.iterdir()))
        if found is not None:
            return {"nearest": str(folder / found)}
        return {
            "hint": f"the folder {folder.resolve() if str(folder) == '.' else folder} exists but has no similar entry"
        }
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    inside = path.relative_to(folder).parts[0]
    found = nearest(inside, (item.name for item in folder.iterdir()))
    if found is not None:
        return {"nearest": str(folder / found), "hint": f"{folder / inside} does not exist"}
    return {"hint": f"the folder {folder / inside} does not exist either"}
