"""Several conversations in one token sequence, so that short ones waste no positions of a batch on padding.

`fill_rows` chooses which conversations share a row, `pack` makes the row.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from chatbridge.conversation.token_sequence import MediaSlot, TokenSegment, TokenSequence, are_cumulative


def fill_rows(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """The conversations of each row, as indices; no row has more than `budget` positions.

    First-fit decreasing (Johnson 1973) gives the number of rows. Then each conversation, the longest first, goes to the
    row that is the shortest so far: rows end at about the same position, and only the difference to the longest row is
    padding, not that to the budget. Where this exceeds the budget, the rows of first-fit stay. A conversation above the
    budget has a row of its own. Every index occurs once, ascending inside a row.
    """
    longest_first = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    fitted = _first_fit(lengths, longest_first, budget)
    leveled = _leveled(lengths, longest_first, len(fitted))
    highest = max(budget, max(lengths, default=0))
    rows = leveled if max(_sizes(lengths, leveled), default=0) <= highest else fitted
    return sorted(sorted(row) for row in rows)


def _first_fit(lengths: Sequence[int], order: Sequence[int], budget: int) -> list[list[int]]:
    rows: list[list[int]] = []
    free: list[int] = []
    for number in order:
        row = next((at for at, room in enumerate(free) if lengths[number] <= room), None)
        if row is None:
            row = len(rows)
            rows.append([])
            free.append(budget)
        rows[row].append(number)
        free[row] -= lengths[number]
    return rows


def _leveled(lengths: Sequence[int], order: Sequence[int], count: int) -> list[list[int]]:
    """Every conversation, in this order, in the row that is the shortest so far."""
    heap = [(0, row) for row in range(count)]
    rows: list[list[int]] = [[] for _ in range(count)]
    for number in order:
        size, row = heap[0]
        rows[row].append(number)
        heapq.heapreplace(heap, (size + lengths[number], row))
    return rows


def _sizes(lengths: Sequence[int], rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(lengths[number] for number in row) for row in rows]


def pack(sequences: Sequence[TokenSequence]) -> TokenSequence:
    """One sequence of several conversations, in the given order.

    `segments` keep the conversations from attending to each other, positions start from 0 in each, and a media slot
    gives the index of the item within its conversation. A single sequence is returned unchanged.
    raises   ValueError without a sequence, for one that is packed already, or for side texts of two kinds
    """
    if not sequences:
        raise ValueError("got no token sequence to pack, expected at least one")
    if len(sequences) == 1:
        return sequences[0]
    packed, segments, num_branches = TokenSequence(), list[TokenSegment](), 0
    for number, one in enumerate(sequences):
        start = len(packed.ids)
        packed.ids += one.ids
        packed.positions += one.positions
        packed.predict_at += [start + index for index in one.predict_at]
        packed.target += one.target
        packed.media_slots += [MediaSlot(kind, item, start + at, length) for kind, item, at, length in one.media_slots]
        segments += _moved(one, start, number, num_branches)
        if one.segments is not None:
            num_branches = max([num_branches, *(segment.branch for segment in segments[start:])])
    packed.segments = segments
    packed.cumulative = are_cumulative(sequences)
    packed.packed_sizes = [len(one) for one in sequences] if not num_branches else None
    for count in ("cut_turns", "cut_tokens", "num_cut", "num_empty"):
        setattr(packed, count, sum(getattr(one, count) for one in sequences))
    return packed


def _moved(sequence: TokenSequence, start: int, number: int, num_branches: int) -> list[TokenSegment]:
    """The segments of a sequence as conversation `number` of a packed sequence, from index `start` on.

    raises   ValueError when the sequence is packed already
    """
    if sequence.num_conversations > 1:
        raise ValueError("a packed sequence cannot be packed again; pack all sequences at once")
    if sequence.segments is None:
        return [TokenSegment(number)] * len(sequence)
    return [
        TokenSegment(number) if anchor is None else TokenSegment(number, num_branches + branch, start + anchor)
        for _, branch, anchor in sequence.segments
    ]
