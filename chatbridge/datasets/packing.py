"""Several conversations in one token sequence, so that short ones waste no positions of a batch on padding."""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.conversation.token_sequence import TokenSegment, TokenSequence


def pack(sequences: Sequence[TokenSequence]) -> TokenSequence:
    """One sequence of several conversations, in the given order.

    `segments` keep the conversations from attending to each other, positions start from 0 in each, and a media slot
    gives the index of the item within its conversation. A single sequence is returned unchanged.
    raises   ValueError without a sequence, or for one that is packed already
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
        packed.media_slots += [slot._replace(start=start + slot.start) for slot in one.media_slots]
        segments += _moved(one, start, number, num_branches)
        num_branches = max([num_branches, *(segment.branch for segment in segments[start:])])
    packed.segments = segments
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
