"""`python -m chatbridge weights ACTION ...`"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from chatbridge.common.errors import ConfigError, DataError, nearest

ACTIONS = {  # name -> (module with main(arguments), what it does)
    "list": ("chatbridge.weights.list", "which files a YAML needs: size, licence, where to get them, present or not"),
    "check": ("chatbridge.weights.check", "whether every file of a YAML fits its model, from headers alone"),
    "inspect": ("chatbridge.weights.inspect", "names, shapes and types in a file"),
    "convert": ("chatbridge.weights.convert", "a released file as safetensors in our names"),
    "apply-delta": ("chatbridge.weights.delta", "LLaMA and a published delta make Vicuna"),
    "fetch": ("chatbridge.weights.fetch", "download from a URL or the Hugging Face hub, with check sum and resume"),
    "parity": ("chatbridge.weights.parity.command", "compare our parts with numbers of the reference"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand the rest of the command line to one action; the others are not imported."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name not in ACTIONS:
        guess = nearest(name, ACTIONS)
        print(f"weights: there is no action {name!r}{f'; did you mean {guess}?' if guess else ''}", file=sys.stderr)
        print(_usage(), file=sys.stderr)
        return 2
    sys.argv[0] = f"chatbridge weights {name}"
    try:
        return import_module(ACTIONS[name][0]).main(rest)
    except (ConfigError, DataError):
        raise
    except ValueError as error:  # a file that cannot be used: a message, not a traceback
        raise DataError(str(error)) from None


def _usage() -> str:
    lines = ["usage: python -m chatbridge weights ACTION ...", ""]
    lines += [f"  {name:<12} {what}" for name, (_, what) in ACTIONS.items()]
    return "\n".join([*lines, "", "python -m chatbridge weights ACTION --help says more"])
