"""Arguments and messages that the review commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from chatbridge.cli.arguments import whole

MOST_SHOWN = 20  # failures that are printed


def add_chunks(parser: argparse.ArgumentParser) -> None:
    """--num-chunks N, --chunk-idx K"""
    parser.add_argument("--num-chunks", type=whole(1), default=1, metavar="N",
                        help="split the questions among N commands, which may write to the same --out")  # fmt: skip
    parser.add_argument("--chunk-idx", type=whole(0), default=0, metavar="K", help="which part, from 0")


def positive(text: str) -> float:
    """The type of an argument: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def say_failures(failed: Mapping[str, str], what: str) -> None:
    """Print why questions failed, to stderr: the first ones, and how many there are."""
    for name in list(failed)[:MOST_SHOWN]:
        print(f"question {name} {what}: {failed[name]}", file=sys.stderr)
    if len(failed) > MOST_SHOWN:
        print(f"and {len(failed) - MOST_SHOWN:,} more", file=sys.stderr)
