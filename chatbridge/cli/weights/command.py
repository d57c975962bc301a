"""`python -m chatbridge weights ACTION ...`"""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.cli.dispatch import dispatch
from chatbridge.common.errors import ConfigError, DataError

ACTIONS = {  # name -> (module with main(arguments), what it does)
    "list": (
        "chatbridge.cli.weights.list",
        "which files a YAML needs: size, licence, where to get them, present or not",
    ),
    "check": ("chatbridge.cli.weights.check", "whether every file of a YAML fits its model, from headers alone"),
    "inspect": ("chatbridge.cli.weights.inspect", "names, shapes and types in a file"),
    "convert": ("chatbridge.cli.weights.convert", "a released file as safetensors in our names"),
    "apply-delta": ("chatbridge.cli.weights.delta", "LLaMA and a published delta make Vicuna"),
    "fetch": ("chatbridge.cli.weights.fetch", "download from a URL or the Hugging Face hub, with check sum and resume"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand the rest of the command line to one action; the others are not imported."""
    try:
        return dispatch("chatbridge weights", ACTIONS, arguments, "ACTION")
    except (ConfigError, DataError):
        raise
    except ValueError as error:  # a file that cannot be used: a message, not a traceback
        raise DataError(str(error)) from None
