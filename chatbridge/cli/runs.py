"""`chatbridge runs [FOLDER ...]`: list and compare training runs, finished or not."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from chatbridge.common.text_table import text_table
from chatbridge.report.run_differences import differences_text
from chatbridge.report.run_list import is_evaluation, list_runs
from chatbridge.report.run_list_page import write_runs_page


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of the runs; returns the exit code.

    raises   DataError when a folder does not exist, or there is no run
    """
    args = _parser().parse_args(arguments)
    runs = list_runs(args.folders)
    rows = [run.cells() for run in runs]
    print(text_table(list(rows[0]), [[*row.values()] for row in rows]))
    for run in runs:
        for problem in run.problems:
            print(f"{run.name}: {problem}")
    if skipped := [str(folder) for folder in args.folders if is_evaluation(folder)]:
        print(f"{len(skipped)} skipped, which {'are evaluations' if len(skipped) > 1 else 'is an evaluation'}: "
              f"{', '.join(skipped)}")  # fmt: skip
    if args.diff:
        print(f"\n{differences_text(runs)}")
    if args.html is not None:
        print(f"\npage: {write_runs_page(runs, args.html)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chatbridge runs", description="List and compare training runs.")
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", default=[Path("runs")],
        help="run folders, or folders that hold some at any of three levels; default: runs",
    )  # fmt: skip
    parser.add_argument("--diff", action="store_true", help="also show the settings that are not the same in all runs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write one page with the curves of all runs")
    return parser
