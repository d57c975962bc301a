"""What could not be used: written down, counted per source, and too much of it stops the run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.common.types import Batch, Failure

GRACE = 10  # failures per source that are always allowed: a share of few draws says nothing
MOST_SHOWN = 20


class Ledger:
    """The failures of one run as seen by one rank, in `failures.jsonl`.

    path      lines are appended, and ranks may share the file; None only counts
    budgets   source -> share of its draws that may fail; a source is over its budget with more than
              max(grace, share * draws) failures

    Draws and failures are counted per rank and since this process started: a resumed run begins with a fresh grace.
    """

    def __init__(self, path: Path | None, budgets: Mapping[str, float], grace: int = GRACE):
        self.path, self.budgets, self.grace = path, dict(budgets), grace
        self.draws: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._shown: dict[str, Counter[tuple[str, str]]] = {}  # source -> (id, reason) -> times

    def record(self, batches: Iterable[Batch]) -> None:
        """Count the draws of some batches and take over their failures."""
        for batch in batches:
            self.add(batch.failures, batch.sources)

    def add(self, failures: Iterable[Failure], sources: Iterable[str] = ()) -> None:
        """Write failures down; `sources` names the source of every draw that was made meanwhile."""
        failures = tuple(failures)
        self.draws.update(sources)
        self.failed.update(failure.source for failure in failures)
        for failure in failures:
            shown, line = self._shown.setdefault(failure.source, Counter()), (failure.id, failure.reason)
            if line in shown or len(shown) < MOST_SHOWN:
                shown[line] += 1
        if failures and self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures]
            with self.path.open("ab", buffering=0) as stream:  # one write: ranks share the file
                stream.write("".join(lines).encode())

    @property
    def spent(self) -> tuple[str, ...]:
        """Sources over their budget. Ranks that want to stop together compare this."""
        return tuple(source for source in sorted(self.failed) if self.failed[source] > self.allowed(source))

    def allowed(self, source: str) -> float:
        """Failures that a source may have had by now."""
        return max(self.grace, self.budgets.get(source, 0.0) * self.draws[source])

    def check(self) -> None:
        """raises DataError with the list when a source is over its budget"""
        if self.spent:
            raise DataError("\n".join(map(self._report, self.spent)))

    def _report(self, source: str) -> str:
        failed, draws, shown = self.failed[source], self.draws[source], self._shown[source]
        lines = [f"source {source!r}: {failed} failures in {draws} draws, {self.allowed(source):.0f} are allowed"]
        lines += [f"{name}: {reason}" + f" ({times} times)" * (times > 1) for (name, reason), times in shown.items()]
        if rest := failed - shown.total():
            lines.append(f"... and {rest} more")
        where = f" (all of them are in {self.path})" if self.path is not None else ""
        lines.append(f"repair or remove these files{where}, or raise failure_budget of this source")
        return "\n    ".join(lines)
