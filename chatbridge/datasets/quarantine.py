"""Samples that are not opened: those of a list from `chatbridge data check`, and those that crashed a worker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from chatbridge.common.errors import DataError
from chatbridge.common.file_kind import refuse_other_kind
from chatbridge.common.types import FailureKind

FIELDS = ("source", "id", "reason")


class QuarantineEntry(NamedTuple):
    """Why a sample is not opened."""

    reason: str
    kind: FailureKind


class NamedDataset(Protocol):
    """The part of a data set that a look-up needs."""

    @property
    def name(self) -> str: ...
    def sample_id(self, index: int) -> str: ...
    def shared_id(self, index: int) -> str: ...
    def meant_by(self, name: str) -> Sequence[str]: ...


@dataclass
class Quarantine:
    """source -> id -> entry. An id excludes one sample; a sample that crashed a worker excludes all with its media."""

    samples: dict[str, dict[str, QuarantineEntry]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.samples.values()))

    def add(self, source: str, name: str, reason: str, kind: FailureKind) -> None:
        """Exclude the sample with the id `name` of a source."""
        self.samples.setdefault(source, {})[name] = QuarantineEntry(reason, kind)

    def find(self, dataset: NamedDataset, index: int) -> QuarantineEntry | None:
        """The entry of a sample, None without one. Ids are computed only for sources with entries."""
        listed = self.samples.get(dataset.name)
        if not listed:
            return None
        if (found := listed.get(dataset.sample_id(index))) is not None:
            return found
        shared = listed.get(dataset.shared_id(index))
        return shared if shared is not None and shared.kind == "crashed" else None

    def update_ids(self, datasets: Iterable[NamedDataset]) -> list[str]:
        """Replace ids of an earlier release by current ones. An id that may mean several samples is dropped.

        returns  a message for every source with dropped ids
        """
        notes = []
        for dataset in datasets:
            listed, unclear = self.samples.get(dataset.name, {}), []
            for name in list(listed):
                meant = dataset.meant_by(name)
                if len(meant) == 1 and meant[0] != name:
                    listed[meant[0]] = listed.pop(name)
                elif len(meant) > 1:
                    unclear.append((name, meant))
                    del listed[name]
            if unclear:
                name, meant = unclear[0]
                notes.append(
                    f"source {dataset.name}: {len(unclear)} entries of the quarantine list may mean several "
                    f"samples and are not used, first {name} ({' or '.join(meant[:3])}); `chatbridge data check` "
                    "writes them again"
                )
        return notes

    def copy(self) -> Quarantine:
        """An independent copy, which a loader may extend."""
        return Quarantine({source: dict(names) for source, names in self.samples.items()})

    def summary(self, sources: Iterable[str]) -> str:
        """How many entries belong to a run with these sources."""
        ours = set(sources)
        count = sum(len(names) for source, names in self.samples.items() if source in ours)
        others = sorted(source for source in self.samples if source not in ours)
        rest = (
            f"; {len(self) - count} belong to sources that this run does not have: {', '.join(others)}"
            if others
            else ""
        )
        return f"{count} samples are in quarantine{rest}"


def read_quarantine(path: Path | None) -> Quarantine:
    """The list in a file, one {"source", "id", "reason"} per line; empty without a file.

    raises   DataError that names the line
    """
    found = Quarantine()
    if path is None:
        return found
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: cannot be read: it is a folder, a pipe or a device; expected a file")
    try:
        refuse_other_kind(path, may_be_empty=True)
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read: byte {error.start} is not UTF-8; is it the right file?") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: JSON strings may hold U+2028
        if line.strip():
            source, name, reason = _entry(line, f"{path}, line {number}")
            found.add(source, name, reason, "quarantined")
    return found


def _entry(line: str, place: str) -> tuple[str, str, str]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in FIELDS[:2]):
        raise DataError(
            f'{place}: expected {{"source": "...", "id": "...", "reason": "..."}}, got {line.strip()[:80]}; '
            "chatbridge data check --quarantine writes such a list"
        )
    return entry["source"], entry["id"], str(entry.get("reason") or "listed")
