"""What became of each key of the old file: one row per leaf, none dropped, none twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from chatbridge.config.origins import Origin, Unresolved, join

TAKEN, CHANGED, UNNEEDED, LOST, UNKNOWN = "taken", "changed", "not needed", "no equal", "unknown"
STATUSES = (TAKEN, CHANGED, UNNEEDED, LOST, UNKNOWN)
TITLES = {
    TAKEN: "taken",
    CHANGED: "changed in meaning",
    UNNEEDED: "not needed here, nothing is lost",
    LOST: "no equal here",
    UNKNOWN: "unknown keys",
}
SECRET = re.compile(r"(?i:(?:wandb|api|access|auth|secret|hub|hf)_?(?:key|token)$|password$|secret$)")


@dataclass(frozen=True)
class Row:
    """One leaf of the old file.

    key    its path; for a file that the old one names, the path in that file after its name
    here   the key here, with its value where it has another one; "" if there is none
    note   how the meaning differs, or why there is no equal and what to do
    """

    key: str
    value: Any
    status: str
    here: str = ""
    note: str = ""
    file: str | None = None
    line: int | None = None

    @property
    def shown(self) -> str:
        """The value for a table, short, without secrets."""
        if SECRET.search(self.key.rpartition(".")[2]):
            return "(hidden)"
        text = short(self.value)
        return text if len(text) <= 60 else f"{text[:57]}..."

    def as_dict(self) -> dict[str, Any]:
        """The row for a JSON file."""
        hidden = bool(SECRET.search(self.key.rpartition(".")[2]))
        value = "(hidden)" if hidden else self.value
        value = value.message if isinstance(value, Unresolved) else value
        return {"key": self.key, "value": value, "status": self.status, "here": self.here, "note": self.note,
                "file": self.file, "line": self.line}  # fmt: skip


def short(value: Any) -> str:
    """A value in the spelling of YAML."""
    if isinstance(value, Unresolved):
        return f"({value.message})"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(map(short, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {short(inner)}' for key, inner in value.items())}}}"
    return " ".join(str(value).split()) or "''"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every path with a value that is no mapping. A list without mappings is one leaf, and so is an empty mapping."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, join(path, key))
    elif isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        for at, inner in enumerate(value):
            yield from leaves(inner, join(path, at))
    elif path:
        yield path, value


def placed(row: Row, origin: Origin | None) -> Row:
    """The row with the file and line of its key."""
    return row if origin is None else replace(row, file=origin.file, line=origin.line)
