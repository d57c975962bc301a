"""`chatbridge runs [FOLDER ...]`: list and compare training runs, finished or not."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from chatbridge.common.text_table import text_table
from chatbridge.report.run_list import ListedRun, list_runs, setting_differences
from chatbridge.report.run_list_page import write_runs_page

WIDEST = 40  # characters of a value in the table of differences


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
    if args.diff:
        print(f"\n{_differences(runs)}")
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


def _differences(runs: Sequence[ListedRun]) -> str:
    rows = setting_differences(runs)
    if len(runs) < 2 or not rows:
        return "no setting differs" if len(runs) > 1 else "one run: nothing to compare"
    lines = [[key, *map(_shortened, values)] for key, values in rows.items()]
    return text_table(["setting", *(run.name for run in runs)], lines)


def _shortened(text: str) -> str:
    """The end of a long text, which is where paths differ."""
    return text if len(text) <= WIDEST else f"...{text[3 - WIDEST :]}"
