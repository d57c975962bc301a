"""The supervised parts of a training sequence, as text."""

from __future__ import annotations

from typing import Any

from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation


def supervised_runs(layout: Layout, turns: Conversation) -> list[str]:
    """The pieces of each run of supervised positions, side by side."""
    row = layout.training_sequence(turns)
    runs: list[list[int]] = []
    for at in sorted(row.supervised()):
        if not runs or runs[-1][-1] != at - 1:
            runs.append([])
        runs[-1].append(at)
    tokenizer: Any = layout.tokenizer
    return ["".join(tokenizer.inner.convert_ids_to_tokens([row.ids[at] for at in run])) for run in runs]
