"""`chatbridge data check CFG`: open every source and read samples of it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatbridge.cli.arguments import add_config, whole
from chatbridge.cli.data.check_report import BrokenSample, SourceReport, open_quarantine, report_text, write_quarantine
from chatbridge.cli.data.measure import spread
from chatbridge.cli.data.sample_check import SampleCheck, SampleResult
from chatbridge.cli.data.terminal import Paint
from chatbridge.common.errors import ConfigError, DataError, Problem
from chatbridge.common.process_pool import LostTask, ProcessPool
from chatbridge.common.threads import num_cores
from chatbridge.datasets.workers.supervisor import hard_limit
from chatbridge.experiment.media_plan import plan_media
from chatbridge.experiment.partial_data import PartialData, Source, read_data
from chatbridge.experiment.tokens import read_tokens

FULL_TIMES = 20  # time limit of a whole video or audio file, in limits of one draw
SAMPLE = 100  # default number of samples read per source
CODES = """exit code: 0 no problem; 1 samples or shards are broken; 2 the configuration has mistakes, or a source
cannot be opened"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Open every source of a YAML and read samples with their media, in processes that may hang or crash. All mistakes
    are reported at once; a broken source does not hide the others."""
    parser = argparse.ArgumentParser(prog="chatbridge data check", description=main.__doc__, epilog=CODES)
    add_config(parser)
    parser.add_argument(
        "--full", action="store_true", help="read every sample and its whole media: every frame, every second"
    )
    parser.add_argument("--sample", type=whole(0), default=SAMPLE, metavar="N",
                        help="samples read per source, spread evenly (default: %(default)s)")  # fmt: skip
    parser.add_argument("--source", action="append", metavar="NAME", help="only this source; may be repeated")
    parser.add_argument("--workers", type=whole(1), default=None, metavar="N", help="processes (default: one per core)")
    parser.add_argument("--quarantine", type=Path, metavar="FILE",
                        help="write the broken samples to this list (JSON lines), for data.quarantine of a run; "
                        "entries of samples that are not read now stay")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    given = parser.parse_args(arguments)
    if given.quarantine is not None:
        open_quarantine(given.quarantine)
    found = read_data(given.config, given.options)
    chosen = [found.find(name) for name in dict.fromkeys(given.source)] if given.source else list(found.sources)
    problems = [one for one in found.problems if one.path != "data.quarantine" or given.quarantine is None]
    if problems and not given.json:
        print(f"{ConfigError(problems)}\n", file=sys.stderr, flush=True)
    reports = read_samples(found, chosen, None if given.full else given.sample, given.workers)
    for source, report in zip(chosen, reports, strict=True):  # remote shards are open now
        report.note = source.dataset.note()
    doubts = filter(None, (source.dataset.doubt() for source in chosen))
    found = replace(found, warnings=(*found.warnings, *doubts))
    written, unwritten = None, None
    if given.quarantine is not None:
        try:  # before the report is printed: its reader may close the pipe early
            written = write_quarantine(given.quarantine, reports)
        except OSError as error:
            unwritten = DataError(f"{given.quarantine}: could not be written: {error.strerror}")
    code = 2 if problems else 1 if found.warnings or any(one.broken for one in reports) else 0
    if given.json:
        print(json.dumps(_as_json(found, problems, reports, code), indent=1, ensure_ascii=False))
        return _ended(code, unwritten)
    broken = {} if given.source else found.broken
    print(report_text(reports, broken, Paint()))
    print("\n".join(f"{Paint().bad('!!')}  {warning}" for warning in found.warnings), end="\n" * bool(found.warnings))
    print(_summary(reports, problems))
    if written is not None:
        older = f", {written[1]:,} of them from earlier checks" if written[1] else ""
        print(f"quarantine: {written[0]:,} samples in {given.quarantine}{older}; set data.quarantine to it")
    return _ended(code, unwritten)


def _ended(code: int, unwritten: DataError | None) -> int:
    """Return the exit code after the report is printed. Raises the error that kept the list from being written."""
    if unwritten is not None:
        raise unwritten
    return code


def read_samples(
    found: PartialData, sources: Sequence[Source], sample: int | None, num_workers: int | None
) -> list[SourceReport]:
    """Read `sample` samples per source; None: all."""
    reports = [_empty_report(source) for source in sources]
    tasks = [(number, spread(one.samples, sample)) for number, one in enumerate(reports)]
    check, time_limit_s = _sample_check(found, sources, is_full=sample is None)
    every = ((number, index) for number, indices in tasks for index in indices)
    total = sum(len(indices) for _, indices in tasks)
    pool: ProcessPool[tuple[int, int], SampleResult] = ProcessPool(
        check, min(num_workers or num_cores(), total), time_limit_s
    )
    for (number, index), result in _with_progress(pool.results(every), total):
        _note(reports[number], sources[number], index, result)
    return reports


def _sample_check(found: PartialData, sources: Sequence[Source], is_full: bool) -> tuple[SampleCheck, float]:
    """Return the check with its own time limit, and the time after which its process is killed."""
    media_plan = plan_media(found)
    kinds = {source.task is None for source in sources}
    tokens = {is_training: read_tokens(found, media_plan, not is_training) for is_training in kinds}
    for note in dict.fromkeys([*media_plan.notes, *(one.note for one in tokens.values() if one.layout is None)]):
        print(f"note: {note}", file=sys.stderr)
    processors = {is_training: media_plan.processors(is_training) for is_training in kinds}
    layouts = {is_training: one.layout for is_training, one in tokens.items()}
    limit_s = media_plan.limits.time_limit_s * (FULL_TIMES if is_full else 1)
    return SampleCheck(sources, processors, layouts, limit_s, is_full), hard_limit(limit_s)


def _empty_report(source: Source) -> SourceReport:
    dataset = source.dataset
    modalities = tuple(sorted(dataset.modalities))
    return SourceReport(source.name, source.builder, modalities, len(dataset), is_task=source.task is not None)


def _with_progress(results: Iterable[Any], total: int) -> Iterator[Any]:
    """Add a progress bar if stderr is a terminal."""
    from tqdm import tqdm

    return iter(tqdm(results, total=total, unit=" samples", desc="reading", disable=None, file=sys.stderr, leave=False))


def _note(report: SourceReport, source: Source, index: int, result: SampleResult | LostTask) -> None:
    report.read += 1
    if isinstance(result, LostTask):
        report.broken.append(BrokenSample(index, source.dataset.sample_id(index), str(result)))
        return
    report.seconds += result.seconds
    report.silent += result.silent
    report.empty += result.empty
    report.cut += result.is_cut
    if result.reason is None:
        report.good_ids.add(result.id)
    else:
        report.broken.append(BrokenSample(index, result.id, result.reason))


def _summary(reports: Sequence[SourceReport], problems: Sequence[Any]) -> str:
    read, broken = sum(one.read for one in reports), sum(len(one.broken) for one in reports)
    opened = f"{len(reports)} source{'s' * (len(reports) != 1)} open"
    parts = [f"{opened}, {sum(one.samples for one in reports):,} samples, {read:,} read"]
    parts += [f"{broken:,} broken" if broken else "all usable"] if read else []
    if problems:
        parts += [f"{len(problems)} problem{'s' * (len(problems) > 1)} in the configuration"]
    return ", ".join(parts)


def _as_json(
    found: PartialData, problems: Sequence[Problem], reports: Sequence[SourceReport], code: int
) -> dict[str, Any]:
    return {
        "config": str(found.path),
        "exit_code": code,
        "problems": [{"path": one.path, "message": one.message, "hint": one.hint, "file": one.file, "line": one.line}
                     for one in problems],
        "warnings": list(found.warnings),
        "sources": {one.name: one.as_json() for one in reports if not one.is_task},
        "tasks": {one.name: one.as_json() for one in reports if one.is_task},
    }  # fmt: skip
