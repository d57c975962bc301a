"""Construct conversations with images in both turns, as TextBind does, and prepare its published data."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module

from chatbridge.common.errors import DataError, nearest
from dataset_prep.common import arguments

PROGRAM = "dataset_prep.textbind"
WIDTH = 118  # columns
COMMANDS = {  # in the order of their use; each is a module of this folder
    "embed": "embed the images of a pool by an encoder, or their captions",
    "cluster": "group the embeddings by k-means; a group is a topic",
    "sample": "draw the images of each conversation from one group",
    "ask": "ask a language model for a conversation over the images of each sample",
    "clean": "keep the usable conversations of `ask`, by nine filters with their counts",
    "rate": "let people rate conversations; good ones become examples for `ask`",
    "reformat": "convert cleaned conversations to the records of training, and list their images",
    "download": "download the images of records by their links",
    "collect": "copy the images that conversations show from the files of the pool",
    "blend": "convert the data sets of the second stage to records",
    "split": "shuffle records and write the training, validation and test files",
    "stats": "count turns, images, tokens and the diversity of records",
}


def main(given: Sequence[str] | None = None) -> int:
    """raises DataError for an unknown command"""
    words = list(sys.argv[1:] if given is None else given)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *rest = words
    if name not in COMMANDS:
        close = nearest(name, COMMANDS)
        meant = f"; did you mean {close}?" if close else ""
        raise DataError(f"there is no command {name!r}{meant} (commands: {', '.join(COMMANDS)})")
    module = import_module(f"{PROGRAM}.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM} {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return module.run(parser.parse_args(rest)) or 0


def usage() -> str:
    """The list of commands with their purpose."""
    indent = max(map(len, COMMANDS)) + 4
    lines = [
        textwrap.fill(f"  {name:<{indent - 2}}{purpose}", WIDTH, subsequent_indent=" " * indent)
        for name, purpose in COMMANDS.items()
    ]
    return "\n".join([f"usage: python -m {PROGRAM} COMMAND ...; COMMAND --help describes it", "", *lines])


if __name__ == "__main__":
    arguments.run(main)
