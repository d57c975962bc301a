"""`chatbridge data check CFG`: would every source open, and would its samples be read?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatbridge.common.process_pool import ProcessPool, LostTask
from chatbridge.common.errors import ConfigError, DataError, Problem
from chatbridge.cli.data.findings import Broken, Finding, open_quarantine, text, write_quarantine
from chatbridge.cli.data.measure import spread
from chatbridge.cli.data.probe import Probe, Verdict
from chatbridge.experiment.media_plan import plan_media
from chatbridge.cli.data.terminal import Paint
from chatbridge.experiment.tokens import read_tokens
from chatbridge.cli.arguments import add_config, whole
from chatbridge.experiment.partial_data import OpenedData, Source, read_data
from chatbridge.datasets.workers.supervisor import hard_limit

FULL_TIMES = 20  # how much longer than one draw a whole video or sound may take
SAMPLE = 100  # samples read of every source unless asked otherwise
CODES = """exit code: 0 everything is sound; 1 samples or shards are broken; 2 the configuration is wrong, or a source
cannot be opened"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Open every source of a YAML and read samples of it, with their pictures, videos and sounds, in processes that
    may hang or crash. All mistakes are reported at once; a broken source does not hide the others."""
    parser = argparse.ArgumentParser(prog="chatbridge data check", description=main.__doc__, epilog=CODES)
    add_config(parser)
    parser.add_argument("--full", action="store_true", help="read every sample, and all of its media: every frame, every second")
    parser.add_argument("--sample", type=whole(0), default=SAMPLE, metavar="N",
                        help="samples read of each source, spread over it evenly (default: %(default)s)")  # fmt: skip
    parser.add_argument("--source", action="append", metavar="NAME", help="only this one; may be given several times")
    parser.add_argument("--workers", type=whole(1), default=None, metavar="N", help="processes (default: one per core)")
    parser.add_argument("--quarantine", type=Path, metavar="FILE",
                        help="write the broken samples there, a line of JSON each, for data.quarantine of a run; "
                        "entries of samples that are not read this time stay")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    given = parser.parse_args(arguments)
    if given.quarantine is not None:
        open_quarantine(given.quarantine)
    found = read_data(given.config, given.options)
    chosen = [found.find(name) for name in dict.fromkeys(given.source)] if given.source else list(found.sources)
    problems = [one for one in found.problems if one.path != "data.quarantine" or given.quarantine is None]
    if problems and not given.json:
        print(f"{ConfigError(problems)}\n", file=sys.stderr, flush=True)
    findings = look(found, chosen, None if given.full else given.sample, given.workers)
    for source, finding in zip(chosen, findings, strict=True):  # remote shards are here now
        finding.note = source.dataset.note()
    doubts = filter(None, (source.dataset.doubt() for source in chosen))
    found = replace(found, warnings=(*found.warnings, *doubts))
    written, unwritten = None, None
    if given.quarantine is not None:
        try:  # before anything is printed: who reads the report may leave early
            written = write_quarantine(given.quarantine, findings)
        except OSError as error:
            unwritten = DataError(f"{given.quarantine}: could not be written: {error.strerror}")
    code = 2 if problems else 1 if found.warnings or any(one.broken for one in findings) else 0
    if given.json:
        print(json.dumps(_as_json(found, problems, findings, code), indent=1, ensure_ascii=False))
        return _ended(code, unwritten)
    broken = {} if given.source else found.broken
    print(text(findings, broken, Paint()))
    print("\n".join(f"{Paint().bad('!!')}  {warning}" for warning in found.warnings), end="\n" * bool(found.warnings))
    print(_sum(findings, problems))
    if written is not None:
        older = f", {written[1]:,} of them from earlier checks" if written[1] else ""
        print(f"quarantine: {written[0]:,} samples in {given.quarantine}{older}; give it to the run as data.quarantine")
    return _ended(code, unwritten)


def _ended(code: int, unwritten: DataError | None) -> int:
    """The exit code, now that everything that was found is printed. raises what kept the list from being written"""
    if unwritten is not None:
        raise unwritten
    return code


def look(found: OpenedData, sources: Sequence[Source], sample: int | None, num_workers: int | None) -> list[Finding]:
    """Read samples of the sources; `sample` None means all of them."""
    findings = [_finding(source) for source in sources]
    tasks = [(number, spread(one.samples, sample)) for number, one in enumerate(findings)]
    probe, time_limit_s = _probe(found, sources, is_full=sample is None)
    every = ((number, index) for number, indices in tasks for index in indices)
    total = sum(len(indices) for _, indices in tasks)
    pool: ProcessPool[tuple[int, int], Verdict] = ProcessPool(probe, min(num_workers or _cores(), total), time_limit_s)
    for (number, index), verdict in _watched(pool.results(every), total):
        _note(findings[number], sources[number], index, verdict)
    return findings


def _cores() -> int:
    """Those this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _probe(found: OpenedData, sources: Sequence[Source], is_full: bool) -> tuple[Probe, float]:
    """What reads a sample and gives up by itself, and the time after which its process is ended."""
    senses = plan_media(found)
    kinds = {source.task is None for source in sources}
    tokens = {is_training: read_tokens(found, senses, not is_training) for is_training in kinds}
    for note in dict.fromkeys([*senses.notes, *(one.note for one in tokens.values() if one.layout is None)]):
        print(f"note: {note}", file=sys.stderr)
    processors = {is_training: senses.processors(is_training) for is_training in kinds}
    layouts = {is_training: one.layout for is_training, one in tokens.items()}
    limit_s = senses.limits.time_limit_s * (FULL_TIMES if is_full else 1)
    return Probe(sources, processors, layouts, limit_s, is_full), hard_limit(limit_s)


def _finding(source: Source) -> Finding:
    dataset = source.dataset
    modalities = tuple(sorted(dataset.modalities))
    return Finding(source.name, source.builder, modalities, len(dataset), is_asked=source.task is not None)


def _watched(results: Iterable[Any], total: int) -> Iterator[Any]:
    """With a progress bar where somebody looks."""
    from tqdm import tqdm

    return iter(tqdm(results, total=total, unit=" samples", desc="reading", disable=None, file=sys.stderr, leave=False))


def _note(finding: Finding, source: Source, index: int, verdict: Verdict | LostTask) -> None:
    finding.looked_at += 1
    if isinstance(verdict, LostTask):
        finding.broken.append(Broken(index, source.dataset.sample_id(index), str(verdict)))
        return
    finding.seconds += verdict.seconds
    finding.silent += verdict.silent
    finding.empty += verdict.empty
    finding.cut += verdict.is_cut
    if verdict.reason is None:
        finding.sound_ids.add(verdict.id)
    else:
        finding.broken.append(Broken(index, verdict.id, verdict.reason))


def _sum(findings: Sequence[Finding], problems: Sequence[Any]) -> str:
    read, broken = sum(one.looked_at for one in findings), sum(len(one.broken) for one in findings)
    opened = f"{len(findings)} source{'s' * (len(findings) != 1)} open"
    said = [f"{opened}, {sum(one.samples for one in findings):,} samples, {read:,} read"]
    said += [f"{broken:,} broken" if broken else "all of those sound"] if read else []
    if problems:
        said += [f"{len(problems)} problem{'s' * (len(problems) > 1)} in the configuration"]
    return ", ".join(said)


def _as_json(found: OpenedData, problems: Sequence[Problem], findings: Sequence[Finding], code: int) -> dict[str, Any]:
    return {
        "config": str(found.path),
        "exit_code": code,
        "problems": [{"path": one.path, "message": one.message, "hint": one.hint, "file": one.file, "line": one.line}
                     for one in problems],
        "warnings": list(found.warnings),
        "sources": {one.name: one.as_json() for one in findings if not one.is_asked},
        "tasks": {one.name: one.as_json() for one in findings if one.is_asked},
    }  # fmt: skip
