"""Samples that could not be used: recorded, counted per source over the whole run, and limited by a budget."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import numpy as np

from chatbridge.common.environment import hidden
from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import append_lines
from chatbridge.common.types import Batch, Failure, FailureKind

GRACE = 10  # failures per source that are always allowed: a share of few draws is not significant
MOST_SHOWN = 20
COUNTED = ("quarantined", "without sound", "repaired")  # kinds that do not count as failures
_FIELDS = {field.name for field in fields(Failure)}


class FailureLog:
    """The failures of a run in `failures.jsonl`; the counts follow from the file.

    path      every rank and every launch of a run append to the same file, and read the lines of the others. Ranks on
              machines without a shared disk count separately. None: no file, only this process is counted
    budgets   source -> share of its draws that may fail; a source is over its budget with more than
              max(grace, share * draws) failures

    A failure belongs to a numbered draw. So a run that resumes from a checkpoint (`begin`) counts the failures before
    it, and not those after it, which will occur again.
    """

    def __init__(self, path: Path | None, budgets: Mapping[str, float], grace: int = GRACE):
        self.path, self.budgets, self.grace = path, dict(budgets), grace
        self.draws: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.counted: dict[str, Counter[str]] = {kind: Counter() for kind in COUNTED}
        self._shown: dict[str, Counter[tuple[str, str]]] = {}  # source -> (id, reason) -> times
        self._read_to = self._size()  # bytes of the file that are counted or of earlier launches

    def begin(self, draws: Mapping[str, int]) -> list[Failure]:
        """Resume the counts of an earlier launch after `draws` draws per source.

        returns  the samples that crashed the process that read them, at any time: they would again
        """
        keys: dict[tuple[str, str], array] = {}
        crashed: dict[tuple[str, str], Failure] = {}
        self._read_to = 0
        for failure in self._new_lines():
            if failure.kind == "crashed":
                crashed[failure.source, failure.id] = failure
            if failure.drawn < draws.get(failure.source, 0):
                kind = "failed" if failure.counts else failure.kind
                keys.setdefault((kind, failure.source), array("q")).append(hash((failure.id, failure.drawn)))
        for (kind, source), seen in keys.items():  # a draw that was read twice counts once
            (self.failed if kind == "failed" else self.counted[kind])[source] = len(np.unique(np.asarray(seen)))
        self.draws = Counter(draws)
        return list(crashed.values())

    def record(self, batches: Iterable[Batch], draws: Mapping[str, int] | None = None) -> None:
        """Record the failures of some batches.

        draws    source -> its draws until now on all ranks; None: the draws of the batches are counted
        """
        batches = tuple(batches)
        sources = () if draws is not None else [source for batch in batches for source in batch.sources]
        self.add([failure for batch in batches for failure in batch.failures], sources)
        if draws is not None:
            self.draws = Counter(draws)

    def add(self, failures: Iterable[Failure], sources: Iterable[str] = ()) -> None:
        """Record failures; `sources` has the source of every draw since the last call."""
        failures = tuple(failures)
        self.draws.update(sources)
        if self.path is None:
            self._count(failures)
            return
        if failures:
            entries = [asdict(failure) | {"reason": hidden(failure.reason)} for failure in failures]
            append_lines(self.path, [json.dumps(entry, ensure_ascii=False) for entry in entries])
        self._count(self._new_lines())

    @property
    def spent(self) -> tuple[str, ...]:
        """The sources over their budget. Ranks compare them to stop together."""
        return tuple(source for source in sorted(self.failed) if self.failed[source] > self.allowed(source))

    def allowed(self, source: str) -> float:
        """The number of failures that a source may have now."""
        return max(self.grace, self.budgets.get(source, 0.0) * self.draws[source])

    def check(self) -> None:
        """raises DataError with a list of failures when a source is over its budget"""
        if self.spent:
            raise DataError("\n".join(map(self._report, self.spent)))

    def summary(self) -> str:
        """A table: per source the number of draws, failures, quarantined samples, missing audio and repaired texts."""
        names = sorted({*self.draws, *self.failed, *(name for counter in self.counted.values() for name in counter)})
        columns = {"draws": self.draws, "failed": self.failed, **self.counted}
        rows = [["source", *columns], *([name, *(f"{one[name]:,}" for one in columns.values())] for name in names)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(columns) + 1)]
        lines = [
            row[0].ljust(widths[0]) + "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:], widths[1:])) for row in rows
        ]
        return "\n    ".join(["data of this run", *lines])

    def _count(self, failures: Iterable[Failure]) -> None:
        for failure in failures:
            if not failure.counts:
                self.counted[failure.kind][failure.source] += 1
                continue
            self.failed[failure.source] += 1
            shown, line = self._shown.setdefault(failure.source, Counter()), (failure.id, failure.reason)
            if line in shown or len(shown) < MOST_SHOWN:
                shown[line] += 1

    def _new_lines(self) -> Iterator[Failure]:
        """The lines that any process appended since the last call; an incomplete line waits for the next call."""
        size = self._size()
        self._read_to = min(self._read_to, size)  # shorter: a new run renamed the old file
        if self.path is None or size == self._read_to:
            return
        with self.path.open("rb") as stream:
            stream.seek(self._read_to)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._read_to += len(line)
                if (failure := _failure(line)) is not None:
                    yield failure

    def _size(self) -> int:
        try:
            return self.path.stat().st_size if self.path is not None else 0
        except FileNotFoundError:
            return 0

    def _report(self, source: str) -> str:
        failed, draws, shown = self.failed[source], self.draws[source], self._shown.get(source, Counter())
        lines = [f"source {source!r}: {failed} failures in {draws} draws, {self.allowed(source):.0f} are allowed"]
        lines += [f"{name}: {reason}" + f" ({times} times)" * (times > 1) for (name, reason), times in shown.items()]
        if rest := failed - shown.total():
            lines.append(f"... and {rest} more")
        where = f" (all of them are in {self.path})" if self.path is not None else ""
        lines.append(f"repair or remove these files{where}, or raise the failure_budget of this source")
        return "\n    ".join(lines)


def _failure(line: bytes) -> Failure | None:
    """The failure in a line; None for an incomplete line or one of a different format."""
    try:
        found = json.loads(line)
        failure = Failure(**{name: value for name, value in found.items() if name in _FIELDS})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    texts = (failure.source, failure.id, failure.reason)
    is_valid = all(isinstance(text, str) for text in texts) and failure.kind in get_args(FailureKind)
    return failure if is_valid and isinstance(failure.drawn, int) else None
