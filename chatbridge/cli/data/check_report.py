"""The results of a check per source, grouped by reason, as text, JSON and quarantine list."""

from __future__ import annotations

import json
import re
import tempfile
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.cli.data.terminal import Paint
from chatbridge.common.environment import hidden
from chatbridge.common.errors import DataError, Problem
from chatbridge.common.safe_files import file_lock, replace_text
from chatbridge.datasets.quarantine import read_quarantine

NAMED = 3  # samples named per reason


@dataclass(frozen=True)
class BrokenSample:
    """A sample that cannot be used."""

    index: int
    id: str
    reason: str


@dataclass
class SourceReport:
    """One source: the number of its samples, how many were read, and the broken ones."""

    name: str
    builder: str
    modalities: tuple[str, ...]
    samples: int
    is_task: bool  # the data set of an evaluation's task
    read: int = 0
    seconds: float = 0.0  # sum over all workers
    silent: int = 0  # samples used without their audio, as their prompt states
    empty: int = 0  # empty answers, which are not supervised
    cut: int = 0  # samples cut to the maximum length; questions with less room for an answer than max_new_tokens
    broken: list[BrokenSample] = field(default_factory=list)
    good_ids: set[str] = field(default_factory=set)
    note: str | None = None  # what the source left out or repaired when it was opened

    def by_reason(self) -> dict[str, list[BrokenSample]]:
        """Return common reason -> samples, the most frequent reason first."""
        groups: dict[str, list[BrokenSample]] = {}
        for one in sorted(self.broken, key=lambda one: one.index):
            groups.setdefault(common_reason(one.reason, one.id), []).append(one)
        return dict(sorted(groups.items(), key=lambda pair: -len(pair[1])))

    def as_json(self) -> dict[str, Any]:
        """Return the results as plain values."""
        return {
            "builder": self.builder,
            "modalities": list(self.modalities),
            "is_task": self.is_task,
            "samples": self.samples,
            "read": self.read,
            "without_sound": self.silent,
            "empty_answers": self.empty,
            "cut": self.cut,
            "broken": [{"id": one.id, "index": one.index, "reason": one.reason} for one in self.broken],
            "note": self.note,
            "reasons": {reason: len(found) for reason, found in self.by_reason().items()},
            "seconds_per_sample": round(self.seconds / max(self.read, 1), 5),
        }


def common_reason(reason: str, name: str = "") -> str:
    """Return the reason without the details of one file, so that equal failures form a group.

    "data/a/17.jpg: not a readable image (12 bytes missing)" -> "not a readable image (# bytes missing)"
    name   name of the sample, which a reason may contain
    """
    first = reason.splitlines()[0] if reason else ""
    words = re.sub(r"^([^:]*[/\\][^:]*|[^:\s]+\.\w{1,5}|data of \d+ bytes): ", "", first)
    words = re.sub(rf"(?<!\w){re.escape(name.rpartition('/')[2] or name)}(?!\w)", "…", words) if name else words
    words = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S+", "…", words)
    return re.sub(r"(?<![\w-])\d+(\.\d+)?", "#", words)


def report_text(reports: Iterable[SourceReport], broken: Mapping[str, list[Problem]], paint: Paint) -> str:
    """Return a line per source, followed by its problems."""
    reports = list(reports)
    opened = {one.name for one in reports}
    width = max(map(len, [*opened, *map(_name_of, broken)]), default=0)
    lines: list[str] = []
    for is_task in (False, True):
        own = [line for one in reports if one.is_task == is_task for line in _lines(one, width, paint)]
        for at, faults in broken.items():
            if at.startswith("evaluation.") == is_task:
                verb = "used" if _name_of(at) in opened else "opened"
                own.append(f"{paint.bad('NO')}  {_name_of(at):<{width}}  cannot be {verb}: {_first(at, faults)}")
        if own and is_task and len(reports) + len(broken) > len(own):
            lines.append("tasks of the evaluation")
        lines += own
    return "\n".join(lines)


def _name_of(at: str) -> str:
    return at.removeprefix("data.sources.").removeprefix("evaluation.tasks.").removesuffix(".dataset")


def _first(at: str, faults: list[Problem]) -> str:
    """Return the first problem in one line."""
    first, more = faults[0], f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    key = first.path.removeprefix(at).lstrip(".")
    return textwrap.shorten(f"{key}: {first.message}" if key else first.message, 100, placeholder=" ...") + more


def _lines(one: SourceReport, width: int, paint: Paint) -> list[str]:
    mark = paint.bad("NO") if one.broken else paint.good("ok")
    media = "+".join(one.modalities) or "text-only"
    read = "all read" if one.read == one.samples else f"{one.read:,} read"
    silent = f", {one.silent:,} without audio" if one.silent else ""
    silent += f", {one.empty:,} empty answers (not supervised)" if one.empty else ""
    silent += f", {one.cut:,} {'with a shortened answer' if one.is_task else 'cut'}" if one.cut else ""
    bad = paint.bad(f", {len(one.broken):,} broken") if one.broken else ""
    speed = f", {1000 * one.seconds / one.read:.1f} ms each" if one.read else ""
    counts = f"{one.samples:>13,} samples, {read}{speed}{silent}{bad}"
    lines = [f"{mark}  {one.name:<{width}}  {one.builder:<11} {media:<12} {counts}"]
    if one.note is not None:
        lines.append(paint.quiet(f"      {one.note}"))
    for reason, found in one.by_reason().items():
        if len(found) == 1:
            lines.append(f"      1 x {_named(found[0])}")
            continue
        lines.append(f"      {len(found):,} x {paint.strong(reason)}")
        lines += [f"          {_named(sample)}" for sample in found[:NAMED]]
        if len(found) > NAMED:
            lines.append(paint.quiet(f"          ... and {len(found) - NAMED:,} more"))
    return lines


def _named(sample: BrokenSample) -> str:
    first, *rest = sample.reason.splitlines() or [""]
    return "\n            ".join([f"{sample.id}: {first}", *rest])


def open_quarantine(path: Path) -> None:
    """Check that the list can be written, before hours of reading. Raises DataError if it cannot, or is not a list."""
    read_quarantine(path if path.exists() else None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; choose another file") from None


def write_quarantine(path: Path, reports: Iterable[SourceReport]) -> tuple[int, int]:
    """Update the list: samples read now are listed if they are broken, other entries stay.

    returns  number of entries, and how many of them are from earlier checks
    raises   DataError if the file exists and is not a quarantine list
    """
    reports = [one for one in reports if not one.is_task]
    good = {one.name: one.good_ids for one in reports}
    new = {(one.name, sample.id): {"source": one.name, "id": sample.id, "reason": hidden(sample.reason)}
           for one in reports for sample in one.broken}  # fmt: skip
    with file_lock(path):  # a check that ended in between keeps its entries
        old = {(source, name): {"source": source, "id": name, "reason": listed.reason}
               for source, names in read_quarantine(path if path.exists() else None).samples.items()
               for name, listed in names.items()
               if (source, name) not in new and name not in good.get(source, ())}  # fmt: skip
        entries = [*old.values(), *new.values()]
        replace_text(path, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
    return len(entries), len(old)
