"""Migrate a configuration: `chatbridge migrate OLD.yaml [--out NEW.yaml] [--options ...] [--with FILE ...]`.

Prints what became of every key. Without --out the new file goes to standard output and the table to standard error.
The exit code is 0; 3 when a key has no equal here or is unknown, or the new file has mistakes; and 2 when the old file
cannot be migrated: then nothing is written. A file that exists is never replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chatbridge.cli.arguments import add_options, whole
from chatbridge.cli.migrate.rows import STATUSES, TITLES, Row
from chatbridge.common.environment import hidden
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.merge import display_path

INCOMPLETE = 3
WIDTH = 110


def main(arguments: Sequence[str] | None = None) -> int:
    """Migrate one file. Returns the exit code."""
    args = _arguments(arguments)
    from chatbridge.cli.migrate.convert import Migrated, migrate

    for path in filter(None, (args.out, args.json)):
        _refuse_existing(path, args.config)
    stem = args.out.stem if args.out is not None else args.config.stem
    result: Migrated = migrate(args.config, args.options, args.defaults, stem, args.ranks, args.keep_paths)
    if args.out is not None:
        write_new(args.out, result.text)
    if args.json is not None:
        content = {
            "from": str(args.config), "defaults": list(result.files), "to": None if args.out is None else str(args.out),
            "rows": [row.as_dict() for row in result.rows], "implied": [list(one) for one in result.implied],
            "limits": list(result.limits), "needs": [one.path for one in result.needs],
            "mistakes": [str(one) for one in result.mistakes],
            "is_complete": result.is_complete,
        }  # fmt: skip
        write_new(args.json, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")
    lines = [*_table(result.rows), *_after(result, args)]
    print(hidden("\n".join(lines)), file=sys.stdout if args.out is not None else sys.stderr)
    if args.out is None:
        print(result.text, end="")
    return 0 if result.is_complete else INCOMPLETE


def _refuse_existing(path: Path, old: Path) -> None:
    """raises ConfigError when a file to write exists, or its folder does not"""
    same = " (it is the old file itself)" if path.exists() and old.exists() and path.samefile(old) else ""
    if path.exists() or path.is_symlink():
        hint = "choose another name, or remove it first"
        raise ConfigError([Problem("", f"exists, and is not replaced{same}", display_path(path), hint=hint)])
    if not path.parent.is_dir():
        raise ConfigError([Problem("", f"the folder {path.parent} does not exist", display_path(path))])


def write_new(path: Path, text: str) -> None:
    """Write a file that does not exist; of two processes one gets the error."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        _refuse_existing(path, path)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    """The rows by status: the old key, the key here, and the note below them."""
    for status in STATUSES:
        own = [row for row in rows if row.status == status]
        if not own:
            continue
        yield f"{TITLES[status]} ({len(own)})"
        width = min(max(len(f"{row.key}: {row.shown}") for row in own), 56)
        for note in dict.fromkeys(
            row.note for row in own
        ):  # rows with the same note together, the note once below them
            for row in (row for row in own if row.note == note):
                left = f"{row.key}: {row.shown}"
                yield f"  {left:<{width}}  ->  {row.here}" if row.here else f"  {left}"
            yield from textwrap.wrap(note, WIDTH - 6, initial_indent=" " * 6, subsequent_indent=" " * 6)
        yield ""


def _after(result: Any, args: argparse.Namespace) -> Iterator[str]:
    """Settings without a key in the old file, what the new file needs, and the next step."""
    if result.implied:
        yield f"set without a key in the old file ({len(result.implied)})"
        for here, why in result.implied:
            yield f"  {here}"
            yield from textwrap.wrap(why, WIDTH - 6, initial_indent=" " * 6, subsequent_indent=" " * 6)
        yield ""
    if result.limits:
        yield f"not expressed, whatever the keys are ({len(result.limits)})"
        yield from (f"  {one}" for one in result.limits)
        yield ""
    none = "none; the old file is not in a checkout of its code base (--with FILE adds some)"
    yield f"defaults read: {', '.join(result.files) or none}"
    if result.mistakes:
        yield f"\nthe new file does not pass its check yet ({len(result.mistakes)}):"
        yield textwrap.indent("\n\n".join(map(str, result.mistakes)), "  ")
    if result.needs:
        needs = "paths to give, or files to bring: " + ", ".join(one.path for one in result.needs)
        yield from textwrap.wrap(needs, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    if args.out is not None:
        command = "python train.py --cfg-path" if result.is_training else "python demo.py --cfg-path"
        yield f"\nwritten: {args.out}\nnext: {command} {args.out} --check"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chatbridge migrate",
        description="Rewrite a configuration of LAVIS, MiniGPT-4 or ChatBridge as one of this project, and print what "
        "became of each key. No weights or data are read.",
        epilog="exit codes: 0, nothing was lost; 3, some keys have no equal, or there are mistakes; 2, nothing written",
    )
    parser.add_argument("config", type=Path, metavar="OLD.yaml", help="the file that their train.py or demo.py takes")
    parser.add_argument("--out", type=Path, metavar="NEW.yaml", help="the new file; it must not exist")
    add_options(parser, "settings that replace those of the old file, in its own names: run.init_lr=1e-4")
    parser.add_argument(
        "--with", dest="defaults", nargs="+", type=Path, default=[], metavar="FILE",
        help="default files of its code base (of the model, of data sets) that are not found in its checkout",
    )  # fmt: skip
    parser.add_argument("--ranks", type=whole(1), default=1, metavar="N", help="processes of the old run; default: 1")
    parser.add_argument("--keep-paths", action="store_true", help="write paths that are not on this machine, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON")
    return parser.parse_args(arguments)
