"""`chatbridge compare A B`: two evaluations, files of predictions or files of scores on the same items."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from chatbridge.cli.written_files import check_written
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.safe_files import replace_text
from chatbridge.common.text_repair import repaired
from chatbridge.common.text_table import text_table
from chatbridge.report.comparison.page import ITEMS, write_comparison
from chatbridge.report.comparison.runs import How, RunComparison, compare_runs
from chatbridge.report.comparison.sides import read_compared
from chatbridge.report.comparison.text import comparison_json, comparison_text
from chatbridge.tasks.metric_settings import built_metrics, named_settings
from chatbridge.tasks.metrics.base import METRICS, Metric
from chatbridge.tasks.statistics import RESAMPLES

LONGEST = 48  # characters of a value in the table of settings
MOST_SETTINGS = 40  # in the terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; returns the exit code.

    raises   ConfigError for unknown metrics; DataError for a path without results, or sides with other items
    """
    args = _parser().parse_args(arguments)
    check_written({"--json": args.json, "--html": args.html}, [args.a, args.b])
    metrics = _metrics(args.metrics) if args.metrics is not None else None
    how = How(metrics, _fields(args.group_by), _fields(args.resample_by), args.resamples, args.seed)
    found = compare_runs(read_compared(args.a, args.task), read_compared(args.b, args.task), how)
    labels = (found.a.label, found.b.label)
    print(_text(found))
    if args.json is not None:
        content = comparison_json(*labels, found.tasks, found.settings, found.notes)
        replace_text(args.json, repaired(json.dumps(content, indent=1, ensure_ascii=False)))
        print(f"numbers: {args.json}")
    if args.html is not None:
        written = write_comparison(args.html, found.tasks, labels, found.settings, found.notes, args.items)
        print(f"page:    {written}")
    return 0


def _text(found: RunComparison) -> str:
    parts = [f"A: {found.a.label}\nB: {found.b.label}"]
    if found.settings:
        rows = [(name, *map(_short, values)) for name, values in list(found.settings.items())[:MOST_SETTINGS]]
        more = len(found.settings) - len(rows)
        table = text_table(("settings that differ", "A", "B"), rows)
        parts.append(table + (f"\nand {more} more, which --json and --html list" if more > 0 else ""))
    elif found.a.settings and found.b.settings:
        parts.append("no setting differs")
    if found.notes:
        parts.append("\n".join(found.notes))
    return "\n\n".join([*parts, comparison_text(found.tasks)])


def _short(text: str) -> str:
    """The end of a long text, which is where paths differ."""
    return text if len(text) <= LONGEST else f"...{text[3 - LONGEST :]}"


def _metrics(text: str) -> dict[str, Metric]:
    """The named metrics with their default settings. raises ConfigError with all unknown names"""
    names = _names(text)
    if not names:
        raise ConfigError([Problem("--metrics", "names no metric", allowed=METRICS.names(), hint="for example: bleu")])
    try:
        return built_metrics(named_settings(names, {}))
    except ConfigError as error:
        raise ConfigError(replace(one, path=f"--{one.path}") for one in error.problems) from None


def _names(text: str) -> list[str]:
    return [name for one in text.split(",") if (name := one.strip())]


def _fields(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(_names(text))


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"is {value}, expected 0 or more")
    return value


def _resamples(text: str) -> int:
    value = int(text)
    if value < 100:
        raise argparse.ArgumentTypeError(f"is {value}; an interval of 95% needs at least 100 resamples")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chatbridge compare",
        description="Compare two systems on the same items: paired bootstrap intervals of the differences, McNemar's "
        "test, settings that differ, and the items whose outcome changed.",
    )  # fmt: skip
    what = "folder of an evaluation or a run, a file of predictions (id, prediction, references), or a file of scores"
    parser.add_argument("a", type=Path, metavar="A", help=what)
    parser.add_argument("b", type=Path, metavar="B", help="the same; differences are B - A")
    add = parser.add_argument
    add("--task", action="append", default=[], metavar="NAME",
        help="compare this task alone, also a condition: vqa.without_audio; may be repeated")  # fmt: skip
    add("--metrics", metavar="NAMES", help="score both with these, such as cider,bleu; default: those of the task in A")
    add("--group-by", metavar="FIELDS",
        help="annotation fields whose values get a line each; default: group_by of the task")  # fmt: skip
    add("--resample-by", metavar="FIELDS",
        help="annotation fields whose items are drawn together; default: resample_by of the task")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="also write all numbers and the ids that changed")
    add("--html", type=Path, metavar="FILE", help="also write a page with the changed items and their media")
    add("--items", type=_count, default=ITEMS, metavar="N",
        help=f"most items of a task and direction on the page; default: {ITEMS}")  # fmt: skip
    add("--resamples", type=_resamples, default=RESAMPLES, metavar="N",
        help=f"of the bootstrap; default: {RESAMPLES}")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap; default: 0")
    return parser
