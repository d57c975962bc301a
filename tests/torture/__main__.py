"""`python -m tests.torture FOLDER`: write every odd file, to test a data path or another machine with."""

from __future__ import annotations

import argparse
from pathlib import Path

from dataset_prep.common import arguments
from tests.torture import KINDS
from tests.torture.odd_file import write_all


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("folder", type=Path, help="output folder, one sub-folder per kind")
    folder = parser.parse_args().folder
    for kind, odds in KINDS.items():
        write_all(folder / kind, odds)
        print(f"{folder / kind}: {len(odds)} files")
    print(f"{sum(map(len, KINDS.values()))} files in all")


if __name__ == "__main__":
    arguments.run(main)
