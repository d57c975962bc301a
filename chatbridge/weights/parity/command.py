"""`chatbridge weights parity FOLDER`"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from chatbridge.weights.parity.run import Outcome, run_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """A line of JSON per case. 0 when every known case holds, 1 when one does not or there is none."""
    parser = argparse.ArgumentParser(prog="chatbridge weights parity", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="NAME.json sidecars, most with a NAME.safetensors beside them")
    outcome = Outcome()
    for line in run_folder(parser.parse_args(arguments).folder, outcome):
        print(json.dumps(line), flush=True)
    said = f"{outcome.num_held} hold, {outcome.num_failed} do not, {outcome.num_skipped} skipped (each says why)"
    print(said if outcome.num_held or outcome.num_failed else f"{said}: no known case in this folder", file=sys.stderr)
    return 0 if outcome.is_good else 1
