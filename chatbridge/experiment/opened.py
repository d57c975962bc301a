"""A configuration as far as it can be read: strict for a run, tolerant for commands that look at incomplete files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from chatbridge.common.environment import with_references
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.added_settings import with_added_settings
from chatbridge.config.origins import MISSING, Origins, Unresolved
from chatbridge.config.schema import parse, plain
from chatbridge.models.hf_folder import cached_folder
from chatbridge.models.weight_files import FILE_SETTINGS

Root = TypeVar("Root")
RUN_FILES = ("init_from", "resume")  # settings of the run that name checkpoints


@dataclass(frozen=True)
class Opened(Generic[Root]):
    """One configuration: `config` for a command that needs all of it, `part` for one that takes what it can get.

    mapping   the file with its bases and options, interpolated; a value that is not known yet is `???` or Unresolved
    problems  every mistake in it; `config` raises them
    parsed    the root dataclass; None when there are problems
    """

    path: Path
    mapping: Mapping[str, Any]
    origins: Origins
    problems: tuple[Problem, ...] = ()
    parsed: Root | None = None

    @property
    def config(self) -> Root:
        """raises ConfigError with every mistake in the configuration"""
        if self.parsed is None:
            raise ConfigError(self.problems)
        return self.parsed

    def with_model(self, model: Any) -> Opened[Root]:
        """The same configuration with other settings of the model: those that a checkpoint was trained with."""
        config: Any = self.config
        return replace(self, parsed=replace(config, model=model))

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration as plain values for files and messages: references in place of the environment's values."""
        return with_references(plain(self.config), self.origins.references)

    def completed(self, then: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that an earlier version wrote, with the defaults of those that it did not have."""
        return with_added_settings(type(self.config), then, plain(self.config))

    def node(self, *keys: str) -> Mapping[str, Any]:
        """A mapping in the file, unchecked; empty when it is absent or not a mapping."""
        node: Any = self.mapping
        for key in keys:
            node = node.get(key) if isinstance(node, Mapping) else None
        return node if isinstance(node, Mapping) else {}

    def section(self, kind: Any, key: str) -> Any:
        """A section of the file as `kind`. raises ConfigError with every mistake in it"""
        return parse(kind, self.node(key), self.origins, key)

    def part(self, kind: Any, *keys: str) -> Any:
        """A part of the file as `kind`; None when it is absent or has mistakes, which `problems` lists."""
        return readable(kind, self.node(*keys))


def readable(kind: Any, node: Any) -> Any:
    """A node as `kind`, a type that `schema.parse` accepts; None when it is empty or has mistakes."""
    if not isinstance(node, Mapping) or not node or any(isinstance(value, Unresolved) for value in node.values()):
        return None
    try:
        return parse(kind, node)
    except ConfigError:
        return None


def with_known_files(node: Mapping[str, Any], at: str = "model") -> tuple[dict[str, Any], list[str]]:
    """A `model` node without settings that name absent files, and a line for each of those: `???` or a missing path."""
    kept: dict[str, Any] = {}
    absent: list[str] = []
    for key, value in node.items():
        path = f"{at}.{key}"
        if isinstance(value, Mapping):
            kept[key], inner = with_known_files(value, path)
            absent += inner
        elif key in FILE_SETTINGS and value is not None and not _is_there(value):
            absent.append(f"{path} ({value if isinstance(value, str) else 'not resolved'})")
        elif value != MISSING and not isinstance(value, Unresolved):
            kept[key] = value
    return kept, absent


def _is_there(value: Any) -> bool:
    """Whether a value is the path of a file or folder, or an id in the Hugging Face cache."""
    if not isinstance(value, (str, Path)) or value == MISSING:
        return False
    folder = cached_folder(Path(value))
    try:
        return folder is not None and folder.exists()
    except OSError:  # a name that is too long, a folder without permission
        return False
