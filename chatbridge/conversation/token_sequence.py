"""Ids, positions, targets and media slots of one conversation, or of several packed conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple


class MediaSlot(NamedTuple):
    """The placeholders of a media item: item k of its conversation, in reading order, has `length` from `start` on."""

    modality: str
    item: int
    start: int
    length: int


class TokenSegment(NamedTuple):
    """The conversation and branch of one token (common.types.Segments, for one token).

    conversation  number of the conversation within the sequence
    branch        0 = base; side texts of the sequence count from 1
    anchor        index in the sequence before which a branch sees the base; None for a token of the base
    """

    conversation: int = 0
    branch: int = 0
    anchor: int | None = None


@dataclass
class TokenSequence:
    """One conversation, or several packed ones (datasets/packing.py). All indices are indices into `ids`.

    ids          token ids; in media slots the padding id, or the placeholder id of the fusion
    positions    position of each token: counts from 0 in each conversation, the beginning-of-sequence token included; a
                 side text counts on from its anchor, and the base does not count side texts
    segments     conversation and branch of each token; None for one conversation without side texts
    predict_at   indices whose output predicts ...
    target       ... these ids. The index before the target; for the first token of a side text, and for the token of
                 the base after one, the index of the base before it. Nothing is shifted later
    packed_sizes tokens of each packed conversation; None unless it was packed of conversations without side texts
    media_slots  without those of turns that were cut
    cut_turns    messages that were dropped
    cut_tokens   tokens that were dropped or cut, media included
    num_cut      conversations that lost tokens
    num_empty    answers without content, which are not supervised
    cumulative   whether side texts see earlier side texts of their conversation
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)  # an empty list is filled: counted from 0
    segments: list[TokenSegment] | None = None
    predict_at: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    media_slots: list[MediaSlot] = field(default_factory=list)
    packed_sizes: list[int] | None = None
    cut_turns: int = 0
    cut_tokens: int = 0
    num_cut: int = 0
    num_empty: int = 0
    cumulative: bool = False

    def __post_init__(self) -> None:
        self.positions = self.positions or list(range(len(self.ids)))

    @property
    def is_cut(self) -> bool:
        return self.cut_tokens > 0

    @property
    def num_conversations(self) -> int:
        return 1 if self.segments is None else 1 + self.segments[-1].conversation  # numbered in order

    @property
    def sizes(self) -> list[int] | None:
        """Tokens of each conversation; None when one of them may have side texts."""
        return [len(self.ids)] if self.segments is None else self.packed_sizes

    def runs(self) -> list[tuple[TokenSegment, int]]:
        """The segments of the tokens, each with the number of tokens in a row that have it."""
        if self.sizes is not None:
            return [(TokenSegment(number), size) for number, size in enumerate(self.sizes)]
        return [(segment, len(list(tokens))) for segment, tokens in groupby(self.segments or ())]

    def conversation_of(self, index: int) -> int:
        """Number of the conversation that a token belongs to."""
        return 0 if self.segments is None else self.segments[index].conversation

    def supervised(self) -> set[int]:
        """Indices of the supervised tokens themselves, for display."""
        if self.segments is None:
            return {index + 1 for index in self.predict_at}
        points = set(zip(self.predict_at, self.target, strict=True))
        found: set[int] = set()
        last: dict[tuple[int, int], int] = {}  # conversation, branch -> its last token so far
        for index, (conversation, branch, _) in enumerate(self.segments):
            before = last.get((conversation, branch), last.get((conversation, 0), -1))
            if (before, self.ids[index]) in points:
                found.add(index)
            last[conversation, branch] = index
        return found

    def __len__(self) -> int:
        return len(self.ids)


def are_cumulative(sequences: Sequence[TokenSequence]) -> bool:
    """Whether the side texts of these sequences are cumulative. raises ValueError when some are and some are not"""
    kinds = {sequence.cumulative for sequence in sequences if sequence.sizes is None}
    if len(kinds) > 1:
        raise ValueError("cumulative and isolated side texts cannot share a batch; use one template setting for both")
    return True in kinds


def numbered(length: int, branches: Sequence[range]) -> tuple[list[int], list[TokenSegment] | None]:
    """Positions and segments of one conversation of `length` tokens, some of which are side texts."""
    if not any(branches):
        return list(range(length)), None
    starts = {branch.start: (number, branch) for number, branch in enumerate(filter(len, branches), 1)}
    positions: list[int] = []
    segments: list[TokenSegment] = []
    base = 0  # position of the next token of the base
    while len(positions) < length:
        number, branch = starts.get(len(positions), (0, range(0)))
        if number:
            positions += range(base, base + len(branch))
            segments += [TokenSegment(0, number, branch.start)] * len(branch)
        else:
            positions.append(base)
            segments.append(TokenSegment())
            base += 1
    return positions, segments
