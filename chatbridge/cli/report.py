"""`python -m chatbridge report RUN [RUN ...]`: the result table, results.json and report.html of any runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from chatbridge.report.folders import read_folders
from chatbridge.report.inputs import Runs, read_runs
from chatbridge.report.page import write_page
from chatbridge.report.results import text_table, write_results

TINY = Path("runs/tiny")


def main(arguments: Sequence[str] | None = None) -> int:
    """raises   DataError when there is nothing to report"""
    asked = _parser().parse_args(arguments)
    runs = read_folders(asked.runs, asked.out) if asked.runs else read_runs(asked.root)
    if asked.runs:
        runs.root.mkdir(parents=True, exist_ok=True)
    print("\n\n".join(part for part in (_training(runs), text_table(runs) if runs.tasks else "") if part), end="\n\n")
    print(f"numbers: {write_results(runs)}")
    print(f"report:  {write_page(runs)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Write report.html and results.json, and print the result table.")
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN",
        help="run folders, folders of evaluations, or folders that hold some; training runs need no evaluation",
    )  # fmt: skip
    parser.add_argument(
        "--root", type=Path, default=TINY,
        help=f"without RUN: the quickstart's folder, reported with the targets of the tiny world ({TINY})",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="where the report of RUN goes; default: the folder, or their parent")
    return parser


def _training(runs: Runs) -> str:
    """How far each training run is, for a terminal."""
    lines = []
    for stage in runs.stages:
        last = stage.records[-1] if stage.records else None
        where = f"step {last['step']}, loss {last['loss']:.4f}" if last else "no step is written down yet"
        lines.append(f"{stage.name:<28}{where}")
    return "\n".join(lines)
