"""The origin of each key, so that an error can name file and line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

MISSING = "???"  # OmegaConf's notation for a value that must be set


OPTIONS = "--options"  # the origin of settings on the command line, as a file name in messages


class Origin(NamedTuple):
    """file: a YAML file or "--options"; line: from 1; comment: the comment after the value.

    written   spelling of an unquoted scalar in the file
    key       spelling of a key that YAML does not read as text
    card      the page about the data that the comment at the top of the file names: "Card: dataset_prep/cards/x.md"
    """

    file: str
    line: int | None = None
    comment: str | None = None
    written: str | None = None
    key: str | None = None
    card: str | None = None


@dataclass
class Origins:
    """Dotted path -> Origin, for every key and list item of a merged configuration.

    references   path -> `${oc.env:...}` text, of values that come from the environment
    """

    entries: dict[str, Origin] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)

    def find(self, path: str) -> Origin | None:
        """Return the origin of this path, or of the nearest mapping above it."""
        while path and path not in self.entries:
            path = parent(path)
        return self.entries.get(path)

    def replace(self, path: str, entries: Mapping[str, Origin]) -> None:
        """Replace everything at and below `path` by `entries`."""
        self.entries = {key: origin for key, origin in self.entries.items() if not is_below(key, path)}
        self.entries.update(entries)

    def __getitem__(self, path: str) -> str:
        return self.entries[path].file

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


class Unresolved:
    """Placeholder of a value that could not be interpolated; `schema.parse` reports it with all other problems.

    is_absent   it refers to a missing key (which may belong to a file that could not be read)
    """

    def __init__(self, message: str, nearest: str | None = None, hint: str | None = None, is_absent: bool = False):
        self.message, self.nearest, self.hint, self.is_absent = message, nearest, hint, is_absent


def join(path: str, key: object) -> str:
    """`model.encoders` + `vision`, or `trainable` + 0 -> `trainable[0]`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else str(key)


def parent(path: str) -> str:
    """Return the path without its last step."""
    return path[: max(path.rfind("."), path.rfind("["), 0)]


def is_below(path: str, top: str) -> bool:
    """Return whether `path` is `top` or inside it."""
    return not top or path == top or path.startswith((f"{top}.", f"{top}["))
