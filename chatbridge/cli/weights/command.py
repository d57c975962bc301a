"""`chatbridge weights ACTION ...`: dispatch to the actions."""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.cli.dispatch import dispatch
from chatbridge.common.errors import ConfigError, DataError

ACTIONS = {  # name -> (module with main(arguments), what it does)
    "list": (
        "chatbridge.cli.weights.list",
        "the files that a YAML needs: size, licence, source, present or not",
    ),
    "check": ("chatbridge.cli.weights.check", "compare the headers of all files of a YAML with its model"),
    "inspect": ("chatbridge.cli.weights.inspect", "names, shapes and types in a file"),
    "convert": ("chatbridge.cli.weights.convert", "write a released file as safetensors with our tensor names"),
    "apply-delta": ("chatbridge.cli.weights.delta", "add a published delta to LLaMA, which gives Vicuna"),
    "drift": ("chatbridge.cli.weights.drift", "what a language model in 8 or 4 bit answers differently"),
    "fetch": (
        "chatbridge.cli.weights.fetch",
        "download all that a YAML names, a URL or a repository, with checksum and resume",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one action; the others are not imported."""
    try:
        return dispatch("chatbridge weights", ACTIONS, arguments, "ACTION")
    except (ConfigError, DataError):
        raise
    except ValueError as error:  # an unusable file: a message, not a traceback
        raise DataError(str(error)) from None
