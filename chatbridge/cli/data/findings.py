"""What a check found: per source, grouped by reason, as text, as JSON and as a quarantine list."""

from __future__ import annotations

import json
import re
import tempfile
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.common.environment import hidden
from chatbridge.common.errors import DataError, Problem
from chatbridge.common.safe_files import file_lock, replace_text
from chatbridge.cli.data.terminal import Paint
from chatbridge.datasets.quarantine import read_quarantine

SHOWN = 3  # samples named for each reason


@dataclass(frozen=True)
class Broken:
    """One sample that cannot be used."""

    index: int
    id: str
    reason: str


@dataclass
class Finding:
    """One source: how many samples it has, how many were read, which of them are broken."""

    name: str
    builder: str
    modalities: tuple[str, ...]
    samples: int
    is_asked: bool  # by an evaluation; the others are learned from
    looked_at: int = 0
    seconds: float = 0.0  # of all workers together
    silent: int = 0  # samples used without their sound, which their prompt then says
    empty: int = 0  # answers without words, which are not supervised
    cut: int = 0  # samples cut to the longest row; questions with less room for an answer than max_new_tokens
    broken: list[Broken] = field(default_factory=list)
    sound_ids: set[str] = field(default_factory=set)
    note: str | None = None  # what was left out or repaired when the source was opened

    def by_reason(self) -> dict[str, list[Broken]]:
        """The most frequent reason first; names and numbers of single files are left out of it."""
        groups: dict[str, list[Broken]] = {}
        for one in sorted(self.broken, key=lambda one: one.index):
            groups.setdefault(common_reason(one.reason, one.id), []).append(one)
        return dict(sorted(groups.items(), key=lambda pair: -len(pair[1])))

    def as_json(self) -> dict[str, Any]:
        return {
            "builder": self.builder,
            "modalities": list(self.modalities),
            "asked": self.is_asked,
            "samples": self.samples,
            "looked_at": self.looked_at,
            "without_sound": self.silent,
            "empty_answers": self.empty,
            "cut": self.cut,
            "broken": [{"id": one.id, "index": one.index, "reason": one.reason} for one in self.broken],
            "note": self.note,
            "reasons": {reason: len(found) for reason, found in self.by_reason().items()},
            "seconds_per_sample": round(self.seconds / max(self.looked_at, 1), 5),
        }


def common_reason(reason: str, name: str = "") -> str:
    """The reason without what differs from file to file, so that alike failures come together.

    "data/a/17.jpg: not a readable image (12 bytes missing)" -> "not a readable image (# bytes missing)"
    name   of the sample: a reason may speak of it
    """
    first = reason.splitlines()[0] if reason else ""
    words = re.sub(r"^([^:]*[/\\][^:]*|[^:\s]+\.\w{1,5}|data of \d+ bytes): ", "", first)
    words = re.sub(rf"(?<!\w){re.escape(name.rpartition('/')[2] or name)}(?!\w)", "…", words) if name else words
    words = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S+", "…", words)
    return re.sub(r"(?<![\w-])\d+(\.\d+)?", "#", words)


def text(findings: Iterable[Finding], broken: Mapping[str, list[Problem]], paint: Paint) -> str:
    """The report for people: a line per source, below it what is wrong with it."""
    findings = list(findings)
    there = {one.name for one in findings}
    closed = {_name_of(at): faults for at, faults in broken.items()}
    width = max(map(len, [*(one.name for one in findings), *closed]), default=0)
    lines: list[str] = []
    for is_asked in (False, True):
        own = [line for one in findings if one.is_asked == is_asked for line in _lines(one, width, paint)]
        own += [f"{paint.bad('NO')}  {_name_of(at):<{width}}  cannot be {'used' if _name_of(at) in there else 'opened'}: "
                f"{_first(at, faults)}"
                for at, faults in broken.items() if at.startswith("evaluation.") == is_asked]  # fmt: skip
        if own and is_asked and len(findings) + len(broken) > len(own):
            lines.append("asked by the evaluation")
        lines += own
    return "\n".join(lines)


def _name_of(at: str) -> str:
    return at.removeprefix("data.sources.").removeprefix("evaluation.tasks.").removesuffix(".dataset")


def _first(at: str, faults: list[Problem]) -> str:
    """The first fault in one line."""
    first, more = faults[0], f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    key = first.path.removeprefix(at).lstrip(".")
    return textwrap.shorten(f"{key}: {first.message}" if key else first.message, 100, placeholder=" ...") + more


def _lines(one: Finding, width: int, paint: Paint) -> list[str]:
    mark = paint.bad("NO") if one.broken else paint.good("ok")
    media = "+".join(one.modalities) or "words alone"
    read = "all read" if one.looked_at == one.samples else f"{one.looked_at:,} read"
    silent = f", {one.silent:,} without their sound" if one.silent else ""
    silent += f", {one.empty:,} empty answers (not supervised)" if one.empty else ""
    silent += f", {one.cut:,} {'with a shortened answer' if one.is_asked else 'cut'}" if one.cut else ""
    bad = paint.bad(f", {len(one.broken):,} broken") if one.broken else ""
    speed = f", {1000 * one.seconds / one.looked_at:.1f} ms each" if one.looked_at else ""
    said = f"{one.samples:>13,} samples, {read}{speed}{silent}{bad}"
    lines = [f"{mark}  {one.name:<{width}}  {one.builder:<11} {media:<12} {said}"]
    if one.note is not None:
        lines.append(paint.quiet(f"      {one.note}"))
    for reason, found in one.by_reason().items():
        if len(found) == 1:
            lines.append(f"      1 x {_named(found[0])}")
            continue
        lines.append(f"      {len(found):,} x {paint.strong(reason)}")
        lines += [f"          {_named(sample)}" for sample in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(paint.quiet(f"          ... and {len(found) - SHOWN:,} more"))
    return lines


def _named(sample: Broken) -> str:
    first, *rest = sample.reason.splitlines() or [""]
    return "\n            ".join([f"{sample.id}: {first}", *rest])


def open_quarantine(path: Path) -> None:
    """See that the list can be written, before hours of reading. raises DataError when it cannot, or is no such list"""
    read_quarantine(path if path.exists() else None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; name another file") from None


def write_quarantine(path: Path, findings: Iterable[Finding]) -> tuple[int, int]:
    """Bring the list up to date: samples that were read now are in it if they are broken; the rest stays as it was.

    returns  lines in the file, and how many of them are older than this check
    raises   DataError when the file exists and is no such list
    """
    findings = [one for one in findings if not one.is_asked]
    sound = {one.name: one.sound_ids for one in findings}
    new = {(one.name, sample.id): {"source": one.name, "id": sample.id, "reason": hidden(sample.reason)}
           for one in findings for sample in one.broken}  # fmt: skip
    with file_lock(path):  # another check that has ended meanwhile keeps its lines
        old = {(source, name): {"source": source, "id": name, "reason": listed.reason}
               for source, names in read_quarantine(path if path.exists() else None).samples.items()
               for name, listed in names.items()
               if (source, name) not in new and name not in sound.get(source, ())}  # fmt: skip
        entries = [*old.values(), *new.values()]
        replace_text(path, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
    return len(entries), len(old)
