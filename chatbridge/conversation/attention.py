"""Which positions of a row may see each other, turned into what a device runs fastest.

Position i sees position j when j does not come after i, both are of the same conversation, and j is of the base and
before the anchor of i's branch, or of i's own branch (common.types.Segments). Packed conversations and side texts are
two users of this one rule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chatbridge.common.types import Segments


def visible(segments: Segments) -> Tensor:
    """bool[B, L, L], True where the position of the second axis sees the one of the third. Padding sees padding alone,
    so that no softmax is over nothing."""
    conversation, branch, anchor = segments.conversation, segments.branch, segments.anchor
    column = torch.arange(conversation.shape[1], device=conversation.device)
    is_before = column[None, :] <= column[:, None]  # [L, L]
    is_same = conversation[:, :, None] == conversation[:, None, :]
    is_base = (branch == 0)[:, None, :] & (column[None, None, :] < anchor[:, :, None])
    return is_before & is_same & (is_base | (branch[:, :, None] == branch[:, None, :]))
