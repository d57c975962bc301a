"""`chatbridge COMMAND ...`, the same as `python -m chatbridge COMMAND ...`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from chatbridge.cli.dispatch import dispatch
from chatbridge.common.errors import run_command

COMMANDS = {  # name -> (module with main(arguments), what it does)
    "train": ("chatbridge.cli.train", "train a model that a YAML file describes"),
    "demo": ("chatbridge.cli.demo", "talk with a model in the browser"),
    "data": ("chatbridge.cli.data.command", "check the data of a run, look at a sample, count tokens, index shards"),
    "evaluate": ("chatbridge.cli.evaluate", "ask a trained model the questions of its tasks and score the answers"),
    "generate": ("chatbridge.cli.generate", "answer a file of questions that have no known answers"),
    "report": ("chatbridge.cli.report", "put results, loss curves and examples of a run on one page"),
    "weights": ("chatbridge.cli.weights.command", "look into weight files, convert and fetch them"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand the rest of the command line to one command; the others are not imported."""
    return dispatch("chatbridge", COMMANDS, arguments, "COMMAND")


def run() -> NoReturn:
    """The console script `chatbridge`: the same, with mistakes of the user as messages."""
    run_command(main)


if __name__ == "__main__":
    run()
