"""Errors of a collective that fails because another rank has ended; no torch."""

from __future__ import annotations

import re

# gloo, NCCL and the store of torchrun, by their words: torch has no type of its own for it
LOST = re.compile(
    r"gloo.*(closed by peer|reset by peer|broken pipe|socket closed)"
    r"|ncclRemoteError|remote process exited|closed by remote peer"
    r"|connection was likely closed|failed to recv, got 0 bytes",
    re.IGNORECASE | re.DOTALL,
)
NEXT_STEP = "the same command resumes from the newest checkpoint (torchrun --max-restarts does so by itself)"


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an operation of torch failed because the process of another rank is gone."""
    return isinstance(error, RuntimeError) and LOST.search(str(error)) is not None
