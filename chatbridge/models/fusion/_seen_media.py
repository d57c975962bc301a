"""The context of gated cross-attention: the media of B sequences, and which of their tokens a text position reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from chatbridge.common.types import Segments
from chatbridge.models.fusion.base import Context

Reach = Literal["next", "previous", "all"]  # the item at or after a position, the latest one up to it, or all up to it
NEVER = 2**40  # start of what fills up rows that have fewer media tokens than others


@dataclass(frozen=True)
class SeenMedia(Context):
    """
    tokens     float[B, N, W]  media tokens of each row, in the order of their slots; the end of a row is filled up
    start      int64[B, N]     position of the slot of their item, NEVER where filled up
    reach      which item a position reads
    everywhere whether layers also change conversations without media
    positions  int64[B, L]     of the text
    reads      bool[B, L, N]   which tokens a position reads
    has_media  bool[B, L or 1, 1]  whether its conversation has an item
    was_changed  bool[B]       whether layers changed what was read of the row so far, for items since cropped too
    has_lost   bool[B]         whether an item was cropped that what was read may have seen
    is_apart   bool[B]         with `everywhere`: whether it was read without media before it joined others, so that
                               no layer changes it; None: no row was
    """

    tokens: Tensor
    start: Tensor
    reach: Reach
    everywhere: bool
    positions: Tensor
    reads: Tensor
    has_media: Tensor
    was_changed: Tensor
    has_lost: Tensor
    is_apart: Tensor | None = None
    is_stepwise: bool = False

    def at(self, positions: Tensor) -> SeenMedia:
        """For other query positions, int64[B, L]."""
        other = self._like(seen(self.tokens, self.start, self.reach, self.everywhere, positions))
        return replace(other, is_stepwise=True)

    def select(self, rows: Tensor) -> SeenMedia:
        """The sequences with these indices, int64[R]."""
        rows = rows.to(self.start.device)
        names = ("tokens", "start", "positions", "reads", "has_media", "was_changed", "has_lost")
        is_apart = None if self.is_apart is None else self.is_apart[rows]
        return replace(self, is_apart=is_apart, **{name: getattr(self, name)[rows] for name in names})

    def followed_by(self, later: SeenMedia) -> SeenMedia:
        tokens, start = torch.cat([self.tokens, later.tokens], 1), torch.cat([self.start, later.start], 1)
        return self._like(seen(tokens, start, self.reach, self.everywhere, later.positions))

    def crop(self, length: int | Tensor) -> SeenMedia:
        """Without the media from position `length` on: a number, or int64[B, 1]."""
        is_gone = (self.start >= length) & (self.start < NEVER)
        left = seen(self.tokens, self.start.masked_fill(is_gone, NEVER), self.reach, self.everywhere, self.positions)
        return replace(self._like(left), has_lost=self.has_lost | is_gone.any(1))

    def without_media(self, num_rows: int) -> SeenMedia:
        """The context of `num_rows` other sequences, which no media have changed."""
        start = self.start.new_full((num_rows, 1), NEVER)
        tokens = self.tokens.new_zeros(num_rows, 1, self.tokens.shape[2])
        found = seen(tokens, start, self.reach, self.everywhere, start.new_zeros(num_rows, 1))
        nothing = start.new_zeros(num_rows, dtype=torch.bool)
        return replace(found, was_changed=nothing, is_apart=~nothing if self.everywhere else None)

    @classmethod
    def join(cls, contexts: Sequence[SeenMedia]) -> SeenMedia:
        most = max(one.tokens.shape[1] for one in contexts)
        tokens = torch.cat([F.pad(one.tokens, (0, 0, 0, most - one.tokens.shape[1])) for one in contexts])
        start = torch.cat([F.pad(one.start, (0, most - one.start.shape[1]), value=NEVER) for one in contexts])
        first = contexts[0]
        whole = seen(tokens, start, first.reach, first.everywhere, start.new_zeros(len(start), 1))
        marks = {name: torch.cat([getattr(one, name) for one in contexts]) for name in ("was_changed", "has_lost")}
        return replace(whole, is_apart=_joined_marks(contexts), **marks)

    def _like(self, other: SeenMedia) -> SeenMedia:
        """Another context of the same sequences, which have been read this far."""
        changed = other.was_changed if self.is_apart is None else other.was_changed & ~self.is_apart
        marks = {"was_changed": self.was_changed | changed, "has_lost": self.has_lost}
        return replace(other, is_apart=self.is_apart, **marks)

    @property
    def changes(self) -> Tensor | None:
        """Which positions the layers change, bool[B, L or 1, 1]; None: all."""
        if not self.everywhere:
            return self.has_media
        return None if self.is_apart is None else ~self.is_apart[:, None, None]

    @property
    def num_tokens(self) -> Tensor:
        """Media tokens of each row, int64[B]."""
        return (self.start < NEVER).sum(1)


def _joined_marks(contexts: Sequence[SeenMedia]) -> Tensor | None:
    if all(one.is_apart is None for one in contexts):
        return None
    return torch.cat([torch.zeros_like(one.has_lost) if one.is_apart is None else one.is_apart for one in contexts])


def seen(tokens: Tensor, start: Tensor, reach: Reach, everywhere: bool, positions: Tensor) -> SeenMedia:
    """The context of sequences of one conversation each.

    tokens     float[B, N, W]
    start      int64[B, N]
    positions  int64[B, L]
    """
    exists = start < NEVER  # [B, N]
    reads = _reached(start[:, None], positions[..., None], exists[:, None], reach)
    has_media = exists.any(1)  # [B]
    marks = (has_media | everywhere, torch.zeros_like(has_media))
    return SeenMedia(tokens, start, reach, everywhere, positions, reads, has_media[:, None, None], *marks)


def seen_in_segments(
    tokens: Tensor, start: Tensor, column: Tensor, reach: Reach, everywhere: bool, positions: Tensor, segments: Segments
) -> SeenMedia:
    """The context of packed conversations and side texts: each position reads media of its own conversation alone, and
    of the base before its side text or of the side text itself. The base reads none of a side text.

    tokens     float[B, N, W]
    start      int64[B, N]
    column     int64[B, N], of the slot in its row
    positions  int64[B, L]
    """
    exists = (start < NEVER)[:, None]  # [B, 1, N]
    conversation, branch = (one.gather(1, column)[:, None] for one in (segments.conversation, segments.branch))
    own, side, anchor = (one[..., None] for one in (segments.conversation, segments.branch, segments.anchor))
    is_same = (conversation == own) & exists  # [B, L, N]
    is_base = (branch == 0) & (column[:, None] < anchor)
    reads = _reached(start[:, None], positions[..., None], is_same & (is_base | (branch == side)), reach)
    marks = (exists.any((1, 2)) | everywhere, torch.zeros_like(start[:, 0], dtype=torch.bool))
    return SeenMedia(tokens, start, reach, everywhere, positions, reads, is_same.any(2, keepdim=True), *marks)


def _reached(start: Tensor, position: Tensor, possible: Tensor, reach: Reach) -> Tensor:
    """bool[B, L, N]; start int64[B, 1, N], position int64[B, L, 1], possible bool[B, L or 1, N]"""
    if reach == "next":
        ahead = start.masked_fill(~(possible & (start >= position)), NEVER)  # [B, L, N]
        return (ahead == ahead.amin(2, keepdim=True)) & (ahead < NEVER)
    behind = start.masked_fill(~(possible & (start <= position)), -1)  # [B, L, N]
    return behind >= 0 if reach == "all" else (behind == behind.amax(2, keepdim=True)) & (behind >= 0)


__all__ = ["NEVER", "Reach", "SeenMedia", "seen", "seen_in_segments"]
