"""Which records of a file a source uses: those of its splits that have an answer, each under a unique name.

Every record that is left out or renamed is counted in `notes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

from chatbridge.common.errors import DataError, nearest
from chatbridge.common.text_repair import repaired
from chatbridge.datasets.formats.records import AnnotationRecord, Parsed
from chatbridge.datasets.unique_names import UniqueNames

Unanswered = Literal["refuse", "skip", "keep"]
NO_ANSWER = "has no answer; `unanswered: skip` leaves such records out, `keep` makes them prompts of an evaluation"
R = TypeVar("R", bound=AnnotationRecord)


class Selection:
    """One pass over the records of `path`.

    splits      the splits that are used; None for all
    unanswered  what happens to a record without an answer; None: it is not looked at
    """

    def __init__(self, path: Path, splits: Sequence[str] | None, unanswered: Unanswered | None):
        self.path, self.splits, self.unanswered = path, splits, unanswered
        self.unique = UniqueNames()
        self._has_faults = False
        self._splits: Counter[str] = Counter()  # split -> how many records
        self._unanswered = 0
        self._first_unanswered = ""  # its place

    def __call__(self, found: Iterable[Parsed[R]]) -> Iterator[Parsed[R]]:
        """The selected records, renamed, and every fault. raises DataError when a wanted split is not in the file"""
        for one in found:
            if one.record is None:
                self._has_faults = True
                yield one
            elif self._is_wanted(one.record):
                is_open = self.unanswered is not None and not one.record.is_answered
                if is_open and self.unanswered == "refuse":
                    yield Parsed(one.place, None, NO_ANSWER)
                    continue
                if is_open:
                    self._unanswered += 1
                    self._first_unanswered = self._first_unanswered or one.place
                if not is_open or self.unanswered == "keep":
                    name = one.record.id or f"{self.path.name}, {one.place}"
                    yield Parsed(one.place, replace(one.record, id=self.unique(repaired(name))))
        self._check_splits()

    def kept_open(self) -> str | None:
        """How many records without an answer are kept, as the configuration wants it; None when none is."""
        return self._open_records("for evaluation prompts only") if self.unanswered == "keep" else None

    def _open_records(self, what: str) -> str | None:
        found = f"records without an answer, {what}: {self._unanswered} (the first: {self._first_unanswered})"
        return found if self._unanswered else None

    def notes(self) -> list[str]:
        """What was left out or renamed, a sentence each."""
        notes = []
        if self.unanswered != "keep" and (left_out := self._open_records("left out")):
            notes.append(left_out)
        if doubles := self.unique.repeated:
            notes.append(f"repeated ids: {doubles}; the later ones are named {self.unique.first}#2 and so on")
        return notes

    def _is_wanted(self, record: AnnotationRecord) -> bool:
        if self.splits is None:
            return True
        self._splits[str(record.details.get("split"))] += 1
        return record.details.get("split") in self.splits

    def _check_splits(self) -> None:
        absent = [split for split in self.splits or () if split not in self._splits]
        if absent and self._splits and not self._has_faults:
            guess = nearest(absent[0], self._splits)
            there = ", ".join(f"{split} ({count})" for split, count in self._splits.items())
            meant = f"; did you mean {guess!r}?" if guess else ""
            raise DataError(f"{self.path}: has no split {absent[0]!r}; its splits: {there}{meant}")
