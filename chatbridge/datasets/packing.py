"""Several token sequences in one row, so that short conversations do not leave a row half empty."""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.conversation.token_sequence import TokenSegment, TokenSequence


def pack(sequences: Sequence[TokenSequence]) -> TokenSequence:
    """One row of several conversations, in the given order. Their tokens do not see each other (`segments`), positions
    count from 0 in each, and a media slot names the item of its own conversation. One sequence comes back as it is.

    raises   ValueError without a sequence
    """
    if not sequences:
        raise ValueError("a row needs at least one token sequence to pack")
    if len(sequences) == 1:
        return sequences[0]
    row, segments, num_branches = TokenSequence(), list[TokenSegment](), 0
    for number, one in enumerate(sequences):
        start = len(row.ids)
        row.ids += one.ids
        row.positions += one.positions
        row.predict_at += [start + index for index in one.predict_at]
        row.target += one.target
        row.media_slots += [slot._replace(start=start + slot.start) for slot in one.media_slots]
        segments += _moved(one, start, number, num_branches)
        num_branches = max([num_branches, *(segment.branch for segment in segments[start:])])
    row.segments = segments
    for count in ("cut_turns", "cut_tokens", "num_cut", "num_empty"):
        setattr(row, count, sum(getattr(one, count) for one in sequences))
    return row


def _moved(sequence: TokenSequence, start: int, number: int, num_branches: int) -> list[TokenSegment]:
    """The segments of a sequence as conversation `number` of a row, from index `start` on.

    raises   ValueError when the sequence is packed already
    """
    if sequence.num_conversations > 1:
        raise ValueError("a row that is packed already cannot be packed again; pack all its sequences at once")
    if sequence.segments is None:
        return [TokenSegment(number)] * len(sequence)
    return [
        TokenSegment(number) if anchor is None else TokenSegment(number, num_branches + branch, start + anchor)
        for _, branch, anchor in sequence.segments
    ]
