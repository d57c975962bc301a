"""`chatbridge data ACTION ...`: dispatch to the actions."""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.cli.dispatch import dispatch
from chatbridge.common.environment import hidden_output
from chatbridge.common.errors import DataError

ACTIONS = {  # name -> (module with main(arguments), what it does)
    "check": ("chatbridge.cli.data.check", "open every source of a YAML, read samples, list broken ones"),
    "show": (
        "chatbridge.cli.data.show",
        "one sample as the model receives it: text, media and tokens, as text, HTML and PNG",
    ),
    "stats": ("chatbridge.cli.data.stats", "sequence lengths, and tokens, shares, passes and padding of a run"),
    "index": ("chatbridge.cli.data.index", "build the indexes of tar shards, in parallel"),
}
NOTE = (
    "CFG is the YAML of a training or an evaluation. No weights are loaded, and they may be absent; preprocessing, "
    "tokenizer and context length are taken from their folders if present, and assumed (with a note) otherwise."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one action; the others are not imported."""
    try:
        with hidden_output():
            return dispatch("chatbridge data", ACTIONS, arguments, "ACTION", NOTE)
    except (BrokenPipeError, TimeoutError):
        raise
    except OSError as error:  # from writing: reading raises its own errors
        if error.filename is None:
            raise
        raise DataError(f"{error.filename}: {error.strerror}; choose another location") from error
