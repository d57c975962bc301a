"""Who set which key: the memory that lets an error name the file and the line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

MISSING = "???"  # OmegaConf's mark for a value the user has to fill in


class Origin(NamedTuple):
    """file: a YAML file or "--options"; line: from 1; comment: what stands behind the value in the YAML.

    written   the value as the file spells it, for an unquoted scalar
    key       the key as the file spells it, where YAML reads it as something else than text
    """

    file: str
    line: int | None = None
    comment: str | None = None
    written: str | None = None
    key: str | None = None


@dataclass
class Origins:
    """Dotted path -> Origin, for every key and list item of a merged configuration.

    references   path -> `${oc.env:...}` text, of values that come from the environment
    """

    entries: dict[str, Origin] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)

    def find(self, path: str) -> Origin | None:
        """Who set this path, or the nearest mapping above it."""
        while path and path not in self.entries:
            path = parent(path)
        return self.entries.get(path)

    def replace(self, path: str, entries: Mapping[str, Origin]) -> None:
        """Forget everything at and below `path`, then take over `entries`."""
        self.entries = {key: origin for key, origin in self.entries.items() if not is_below(key, path)}
        self.entries.update(entries)

    def __getitem__(self, path: str) -> str:
        return self.entries[path].file

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


class Unresolved:
    """Stands in the mapping for a value that could not be worked out; `schema.parse` reports it with all the rest.

    is_absent   it refers to a key that is not there (and may have come with a file that could not be read)
    """

    def __init__(self, message: str, nearest: str | None = None, hint: str | None = None, is_absent: bool = False):
        self.message, self.nearest, self.hint, self.is_absent = message, nearest, hint, is_absent


def join(path: str, key: object) -> str:
    """`model.encoders` + `vision`, or `trainable` + 0 -> `trainable[0]`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else str(key)


def parent(path: str) -> str:
    """The path without its last step."""
    return path[: max(path.rfind("."), path.rfind("["), 0)]


def is_below(path: str, top: str) -> bool:
    """True for `top` itself and everything inside it."""
    return not top or path == top or path.startswith((f"{top}.", f"{top}["))
