"""Subcommands: `chatbridge weights list ...` passes the remaining arguments to one module and imports no other."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from chatbridge.common.errors import nearest

Table = Mapping[str, tuple[str, str]]  # name -> (module with main(arguments), its description)


def dispatch(program: str, table: Table, arguments: Sequence[str] | None, word: str, *notes: str) -> int:
    """Run the module that the first argument names. Returns its exit code; 2 for an unknown name.

    program  the command line before the name: "chatbridge weights"
    word     the placeholder of a name in the help: ACTION
    notes    lines at the end of the help
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_usage(program, table, word, notes))
        return 0
    if name not in table:
        guess = nearest(name, table)
        hint = f"; did you mean {guess}?" if guess else ""
        print(f"{program}: there is no {word.lower()} {name!r}{hint}", file=sys.stderr)
        print(_usage(program, table, word, notes), file=sys.stderr)
        return 2
    sys.argv[0] = f"{program} {name}"
    return import_module(table[name][0]).main(rest)


def _usage(program: str, table: Table, word: str, notes: Sequence[str]) -> str:
    lines = [
        f"usage: {program} {word} ...",
        "",
        *(f"  {name:<12} {what}" for name, (_, what) in table.items()),
    ]
    return "\n".join([*lines, "", *notes, f"{program} {word} --help lists the arguments"])
