"""Parts by name in an exported folder, in place of chatbridge.config.registry: its modules are files side by side."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
P = TypeVar("P", bound=type)


class Registry(Generic[T]):
    """The parts of one kind; `package` is the dotted name of their package in ChatBridge."""

    def __init__(self, kind: str, package: str, besides: Iterable[str] = ()) -> None:
        self.kind, self.package = kind, package
        self._parts: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[P], P]:
        """Class decorator."""

        def enter(part: P) -> P:
            self._parts[name] = part
            return part

        return enter

    def names(self) -> tuple[str, ...]:
        """Names of the parts that were imported."""
        return tuple(sorted(self._parts))

    def get(self, name: str) -> type[T]:
        """The part of this name. raises ValueError for one that the folder does not have"""
        if name not in self._parts:
            module = f"{self.package}.{name}".replace(".", "_")
            try:
                importlib.import_module(f"{__package__}.{module}")
            except ModuleNotFoundError as error:
                if error.name is None or not error.name.endswith(module):
                    raise
                raise ValueError(
                    f"this folder has no {self.kind} {name!r}; export the model again with `chatbridge export --hf`"
                ) from None
        return self._parts[name]

    def add_plugin(self, package: str) -> None:
        """raises ValueError: a folder has the parts of its own model alone"""
        raise ValueError(f"an exported folder takes no plugins (asked for {package})")


def import_file(module: str, subject: str, path: str = "", is_plugin: bool = True) -> None:
    """raises ValueError: a folder has the parts of its own model alone"""
    raise ValueError(f"{subject}: an exported folder takes no plugins (asked for {module})")


def plugin_folder(package: str) -> Any:
    """raises ValueError: a folder has the parts of its own model alone"""
    raise ValueError(f"an exported folder takes no plugins (asked for {package})")
