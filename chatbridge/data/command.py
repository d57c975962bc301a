"""`python -m chatbridge data ACTION ...`"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from chatbridge.common.errors import nearest

ACTIONS = {  # name -> (module with main(arguments), what it does)
    "check": ("chatbridge.data.check", "open every source of a YAML, decode samples, list what is broken"),
    "show": ("chatbridge.data.show", "one sample as the model gets it: words, media, tokens, as text, HTML and PNG"),
    "stats": ("chatbridge.data.stats", "lengths, tokens, shares, passes and padding of a run, from a sample"),
    "index": ("chatbridge.data.index", "write the side indexes of tar shards, in parallel"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand the rest of the command line to one action; the others are not imported."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name not in ACTIONS:
        guess = nearest(name, ACTIONS)
        print(f"data: there is no action {name!r}{f'; did you mean {guess}?' if guess else ''}", file=sys.stderr)
        print(_usage(), file=sys.stderr)
        return 2
    sys.argv[0] = f"chatbridge data {name}"
    return import_module(ACTIONS[name][0]).main(rest)


def _usage() -> str:
    lines = ["usage: python -m chatbridge data ACTION ...", ""]
    lines += [f"  {name:<12} {what}" for name, (_, what) in ACTIONS.items()]
    lines += ["", "CFG is the YAML of a training or an evaluation; no weights are loaded, and they need not be there."]
    return "\n".join([*lines, "", "python -m chatbridge data ACTION --help says more"])
