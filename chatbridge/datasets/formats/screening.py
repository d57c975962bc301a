"""Which entries of a file a source uses: its split, those that have an answer; and how they are called.

Nothing is left out in silence: `notes` says how many and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from chatbridge.common.errors import DataError, nearest
from chatbridge.common.text_repair import repaired
from chatbridge.datasets.formats.entries import Entry
from chatbridge.datasets.unique_names import UniqueNames

Unanswered = Literal["refuse", "skip", "keep"]
NO_ANSWER = "has no answer; `unanswered: skip` leaves such records out, `keep` makes them prompts of an evaluation"


class Screen:
    """One pass over the entries of `path`.

    splits      the splits that are used; None for all
    unanswered  what happens to a record without an answer
    """

    def __init__(self, path: Path, splits: Sequence[str] | None, unanswered: Unanswered):
        self.path, self.splits, self.unanswered = path, splits, unanswered
        self.faults = 0  # entries that cannot be read, of whatever split
        self.left: Counter[str] = Counter()  # why -> how many
        self.found: Counter[str] = Counter()  # split -> how many
        self.unique = UniqueNames()
        self.first: dict[str, str] = {}  # why -> the first record of them

    def __call__(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """raises   DataError when a wanted split is not in the file"""
        for entry in entries:
            if entry.fault is not None:
                self.faults += 1
                yield entry
            elif self._is_wanted(entry.record):
                yield from self._answered(entry)
        self._check_splits()

    def notes(self) -> list[str]:
        """What was left out or renamed, a sentence each."""
        notes = [f"{why}: {count} (the first: {self.first[why]})" for why, count in self.left.items()]
        if doubles := self.unique.repeated:
            notes.append(
                f"ids that are there again: {doubles}; the later ones are called {self.unique.first}#2 and so on"
            )
        return notes

    def _is_wanted(self, record: dict[str, Any]) -> bool:
        if self.splits is None:
            return True
        self.found[str(record.get("split"))] += 1
        return record.get("split") in self.splits

    def _answered(self, entry: Entry) -> Iterator[Entry]:
        record = entry.record
        if record.get("_unanswered") or record.get("_answers") == []:
            if self.unanswered == "refuse":
                yield entry._replace(fault=NO_ANSWER)
                return
            kept = self.unanswered == "keep"
            why = f"records without an answer, {'for evaluation prompts only' if kept else 'left out'}"
            self.left[why] += 1
            self.first.setdefault(why, entry.place)
            if not kept:
                return
        yield entry._replace(record=self._named(entry))

    def _named(self, entry: Entry) -> dict[str, Any]:
        name = str(entry.record.get("_id", f"{self.path.name}, {entry.place}"))
        return {**entry.record, "_id": self.unique(repaired(name))}

    def _check_splits(self) -> None:
        absent = [split for split in self.splits or () if split not in self.found]
        if absent and self.found and not self.faults:
            guess = nearest(absent[0], self.found)
            there = ", ".join(f"{split} ({count})" for split, count in self.found.items())
            meant = f"; did you mean {guess!r}?" if guess else ""
            raise DataError(f"{self.path}: has no split {absent[0]!r}; its splits: {there}{meant}")
