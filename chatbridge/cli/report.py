"""`chatbridge report RUN [RUN ...]`: the result table, results.json and report.html of any runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from chatbridge.report.page import write_page
from chatbridge.report.results import text_table, write_results
from chatbridge.report.run_folders import read_runs
from chatbridge.report.runs import Runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the report of the runs; returns the exit code.

    raises   DataError when a folder has no run, or its evaluation is incomplete
    """
    parser = _parser()
    args = parser.parse_args(arguments)
    folders = [*args.runs, *([args.root] if args.root else [])]
    if not folders:
        parser.error("name at least one run folder, for example: chatbridge report runs/tiny")
    runs = read_runs(*folders, out=args.out)
    runs.root.mkdir(parents=True, exist_ok=True)
    print("\n\n".join(part for part in (_trainings(runs), text_table(runs) if runs.tasks else "") if part), end="\n\n")
    print(f"numbers: {write_results(runs)}")
    print(f"report:  {write_page(runs)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Write report.html and results.json, and print the result table.")
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN",
        help="run folders, folders of evaluations, or folders that hold some; training runs need no evaluation",
    )  # fmt: skip
    parser.add_argument("--root", type=Path, metavar="RUN", help="the same as RUN")
    parser.add_argument("--out", type=Path, help="folder of the report; default: the folder, or their common parent")
    return parser


def _trainings(runs: Runs) -> str:
    """The last step of each training run, for a terminal."""
    lines = []
    for run in runs.trainings:
        last = run.records[-1] if run.records else None
        state = f"step {last['step']}, loss {last['loss']:.4f}" if last else "no step has been logged yet"
        lines.append(f"{run.name:<28}{state}")
    return "\n".join(lines)
