"""`python -m chatbridge report --root runs/tiny`: the result table, results.json and report.html of a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from chatbridge.report.inputs import read_runs
from chatbridge.report.page import write_page
from chatbridge.report.results import text_table, write_results


def main(arguments: Sequence[str] | None = None) -> int:
    """raises   DataError when there is no evaluation to report"""
    parser = argparse.ArgumentParser(description="Write report.html and results.json, and print the result table.")
    parser.add_argument(
        "--root", type=Path, default=Path("runs/tiny"), help="folder with pretrain/, instruct/ and eval/"
    )
    asked = parser.parse_args(arguments)
    runs = read_runs(asked.root)
    print(text_table(runs), end="\n\n")
    print(f"numbers: {write_results(runs)}")
    print(f"report:  {write_page(runs)}")
    return 0
