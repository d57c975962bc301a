"""`python -m chatbridge data ACTION ...`"""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.cli.dispatch import dispatch
from chatbridge.common.environment import hidden_output
from chatbridge.common.errors import DataError

ACTIONS = {  # name -> (module with main(arguments), what it does)
    "check": ("chatbridge.cli.data.check", "open every source of a YAML, decode samples, list what is broken"),
    "show": ("chatbridge.cli.data.show", "one sample as the model gets it: words, media, tokens, as text, HTML and PNG"),
    "stats": ("chatbridge.cli.data.stats", "lengths, tokens, shares, passes and padding of a run, from a sample"),
    "index": ("chatbridge.cli.data.index", "write the side indexes of tar shards, in parallel"),
}
NOTE = (
    "CFG is the YAML of a training or an evaluation. No weights are loaded and they need not be there; what their "
    "folders say about preprocessing, tokens and context length is used where they are, and assumed (with a note) "
    "where they are not."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand the rest of the command line to one action; the others are not imported."""
    try:
        with hidden_output():
            return dispatch("chatbridge data", ACTIONS, arguments, "ACTION", NOTE)
    except (BrokenPipeError, TimeoutError):
        raise
    except OSError as error:  # of what is written: reading has words of its own
        if error.filename is None:
            raise
        raise DataError(f"{error.filename}: {error.strerror}; name another place") from error
