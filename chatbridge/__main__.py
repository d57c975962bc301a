"""`python -m chatbridge COMMAND ...`: what there is to do beside training and chatting."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from chatbridge.common.errors import nearest, run_command

COMMANDS = {  # name -> (module with main(arguments), what it does)
    "data": ("chatbridge.data.command", "check the data of a run, look at a sample, count tokens, index shards"),
    "evaluate": ("chatbridge.evaluate", "ask a trained model the questions of its tasks and score the answers"),
    "report": ("chatbridge.report.command", "put results, loss curves and examples of a run on one page"),
    "weights": ("chatbridge.weights.command", "look into weight files, convert and fetch them"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand the rest of the command line to one command; the others are not imported."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name not in COMMANDS:
        guess = nearest(name, COMMANDS)
        print(f"chatbridge: there is no command {name!r}{f'; did you mean {guess}?' if guess else ''}", file=sys.stderr)
        print(_usage(), file=sys.stderr)
        return 2
    sys.argv[0] = f"chatbridge {name}"
    return import_module(COMMANDS[name][0]).main(rest)


def _usage() -> str:
    lines = ["usage: python -m chatbridge COMMAND ...", ""]
    lines += [f"  {name:<12} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join([*lines, "", "python -m chatbridge COMMAND --help says more"])


def run() -> NoReturn:
    """The console script `chatbridge`: the same, with mistakes of the user as messages."""
    run_command(main)


if __name__ == "__main__":
    run()
