"""`python -m tests.parity [FOLDER]`: compare our parts with numbers recorded from the reference implementations."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from chatbridge.common.errors import run_command
from tests.parity.run import Outcome, run_folder

RECORDED = Path(__file__).parent / "reference" / "golden"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line of JSON per case. Returns 0 if every known case holds, 1 if one does not or none is known."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=main.__doc__)
    text = "NAME.json files, most with a NAME.safetensors of the same name; default: the cases of this repository"
    parser.add_argument("folder", type=Path, nargs="?", default=RECORDED, help=text)
    outcome = Outcome()
    for line in run_folder(parser.parse_args(arguments).folder, outcome):
        print(json.dumps(line), flush=True)
    said = f"{outcome.num_held} hold, {outcome.num_failed} do not, {outcome.num_skipped} skipped (each says why)"
    print(said if outcome.num_held or outcome.num_failed else f"{said}: no known case in this folder", file=sys.stderr)
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    run_command(main)
