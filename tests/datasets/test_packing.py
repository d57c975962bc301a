"""Several conversations in one token sequence, and batches of such sequences."""

from __future__ import annotations

import pickle

import pytest
import torch

from chatbridge.common.types import Sample
from chatbridge.conversation.attention import visible
from chatbridge.conversation.messages import Media, assistant, user
from chatbridge.conversation.token_sequence import MediaSlot, TokenSegment, TokenSequence, numbered
from chatbridge.datasets.collate import stack
from chatbridge.datasets.packing import fill_rows, pack


def plain(first: int, length: int, **changes: object) -> TokenSequence:
    ids = list(range(first, first + length))
    settings = {"predict_at": [length - 2], "target": [ids[-1]], **changes}
    return TokenSequence(ids=ids, **settings)  # pyright: ignore[reportArgumentType]


def branched(first: int) -> TokenSequence:
    """Two tokens, a side text of two, two tokens more; the side text and the token after it are supervised."""
    positions, segments = numbered(6, [range(2, 4)])
    ids = list(range(first, first + 6))
    return TokenSequence(ids, positions, segments, [1, 2, 1], [ids[2], ids[3], ids[4]])


def sample(name: str, *values: float) -> Sample:
    shown = user(*(Media("image", "x") for _ in values))
    return Sample(name, f"source-{name}", (shown,), tuple(torch.full((2,), value) for value in values))


def test_positions_points_and_slots_move_with_their_conversation() -> None:
    """fails when a packed conversation does not count from 0, or its points, slots or side texts point into another"""
    row = pack([plain(10, 3, media_slots=[MediaSlot("image", 0, 1, 1)]), branched(20), branched(30)])
    assert row.ids == [10, 11, 12, *range(20, 26), *range(30, 36)]
    assert row.positions == [0, 1, 2, 0, 1, 2, 3, 2, 3, 0, 1, 2, 3, 2, 3]
    assert [row.ids[at] for at in row.predict_at] == [11, 21, 22, 21, 31, 32, 31]
    assert row.target == [12, 22, 23, 24, 32, 33, 34]
    assert row.media_slots == [MediaSlot("image", 0, 1, 1)]
    assert row.segments is not None and row.num_conversations == 3
    assert row.segments[5:7] == [TokenSegment(1, 1, 5)] * 2 and row.segments[11:13] == [TokenSegment(2, 2, 11)] * 2
    assert {row.ids[index] for index in row.supervised()} == set(row.target)


def test_one_conversation_stays_as_it_is() -> None:
    """fails when a single conversation gets segments, or a sequence is packed twice or from nothing"""
    assert pack([one := plain(10, 3)]) is one
    with pytest.raises(ValueError, match="packed sequence cannot be packed again"):
        pack([pack([plain(10, 3), plain(20, 3)]), plain(30, 3)])
    with pytest.raises(ValueError, match="at least one"):
        pack([])


def test_counts_of_conversations_add_up() -> None:
    """fails when a cut conversation in a packed sequence is not counted"""
    cut = plain(20, 3, cut_tokens=4, cut_turns=2, num_cut=1, num_empty=1)
    row = pack([plain(10, 3), cut, cut])
    assert (row.cut_tokens, row.cut_turns, row.num_cut, row.num_empty, row.is_cut) == (8, 4, 2, 2, True)
    batch = stack([sample("a"), sample("b"), sample("c")], [row], 0)
    assert (batch.num_cut, batch.num_empty) == (2, 2)


def test_a_batch_of_packed_and_plain_sequences() -> None:
    """fails when a point counts for another conversation, an item gets another's slots, or padding is attended to"""
    image = [MediaSlot("image", 0, 0, 1)]
    rows = [plain(40, 2), pack([plain(10, 3, media_slots=image), branched(20), plain(30, 2, media_slots=image)])]
    samples = [sample("alone"), sample("a", 1.0), sample("b"), sample("c", 2.0, 3.0)]
    batch = stack(samples, rows, pad_id=7)
    assert batch.positions.tolist() == [[0, 1] + [0] * 9, [0, 1, 2, 0, 1, 2, 3, 2, 3, 0, 1]]
    assert batch.source_of_point is not None and batch.source_of_point.tolist() == [0, 1, 2, 2, 2, 3]
    assert batch.num_points == (1, 1, 3, 1) and batch.sources[3] == "source-c"
    assert batch.media["image"][:, 0].tolist() == [1, 2] and batch.media_slots["image"].tolist() == [[11], [20]]
    assert batch.ids.flatten()[batch.predict_at].tolist() == [40, 11, 21, 22, 21, 30]
    segments = batch.segments
    assert segments is not None
    assert segments.conversation.tolist() == [[0, 0] + [-1] * 9, [0] * 3 + [1] * 6 + [2] * 2]
    assert segments.branch[1].tolist() == [0] * 5 + [1] * 2 + [0] * 4
    assert segments.anchor[1].tolist() == [11] * 5 + [5] * 2 + [11] * 4
    seen = visible(segments)
    assert not seen[0, :2, 2:].any() and not seen[0, 2:, :2].any() and seen.diagonal(dim1=1, dim2=2).all()


def test_attention_stays_within_a_conversation() -> None:
    """fails when a conversation attends to another, a side text to its future or another one, or the base to one"""
    batch = stack([sample("a"), sample("b")], [pack([plain(10, 2), branched(20)])], 0)
    assert batch.segments is not None
    assert visible(batch.segments)[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0, 1, 0],
        [0, 0, 1, 1, 0, 0, 1, 1],
    ]


def test_rows_made_per_conversation_equal_those_made_per_token() -> None:
    """fails when the short way for conversations without side texts gives other positions or segments"""
    rows = [[3, 1, 5], [4], [2, 7]]
    packed = [pack([TokenSequence(list(range(size)), predict_at=[0], target=[1]) for size in row]) for row in rows]
    samples = [Sample(f"{number}", "a", (assistant("x"),), ()) for number in range(sum(map(len, rows)))]
    quick = stack(samples, packed, 0)
    for one in packed:
        one.packed_sizes = None
    slow = stack(samples, packed, 0)
    assert torch.equal(quick.positions, slow.positions)
    assert quick.segments is not None and slow.segments is not None
    for name in ("conversation", "branch", "anchor"):
        assert torch.equal(getattr(quick.segments, name), getattr(slow.segments, name))


def test_plain_batches_have_no_segments() -> None:
    """fails when a batch without packing or side texts gets segments, other positions, or points that name a source"""
    batch = stack([sample("a"), sample("b")], [plain(10, 4), plain(20, 3)], 0)
    assert batch.segments is None and batch.source_of_point is None and batch.num_points == (1, 1)
    assert batch.positions.tolist() == [[0, 1, 2, 3]] * 2 and batch.positions.dtype == torch.int64


def test_a_side_text_without_packing_needs_no_source_of_points() -> None:
    """fails when one conversation with a side text loses its segments, or counts as packed"""
    batch = stack([sample("a")], [branched(10)], 0)
    assert batch.segments is not None and batch.source_of_point is None and batch.num_points == (3,)


def test_samples_and_conversations_agree_in_number() -> None:
    """fails when a conversation silently gets the media of another because a sample is missing"""
    with pytest.raises(ValueError, match="2 samples for 3 conversations in 2 sequences"):
        stack([sample("a"), sample("b")], [pack([plain(10, 2), plain(20, 2)]), plain(30, 2)], 0)


def test_a_packed_batch_is_pickled_and_moved() -> None:
    """fails when segments change between processes, take a file descriptor each, or are not moved to a device"""
    batch = stack([sample("a"), sample("b")], [pack([plain(10, 2), branched(20)])], 0)
    other = pickle.loads(pickle.dumps(batch))
    assert batch.segments is not None and not isinstance(batch.__getstate__()["segments"].anchor, torch.Tensor)
    for name in ("conversation", "branch", "anchor"):
        assert torch.equal(getattr(other.segments, name), getattr(batch.segments, name))
        assert getattr(batch.to("meta").segments, name).is_meta
    assert torch.equal(other.source_of_point, batch.source_of_point)


@pytest.mark.parametrize("seed", range(8))
def test_rows_hold_every_conversation_once_within_the_budget(seed: int) -> None:
    """fails when a conversation is lost or repeated, a row exceeds the budget, or rows are more than first-fit needs"""
    lengths = torch.randint(5, 60, (40,), generator=torch.Generator().manual_seed(seed)).tolist()
    rows = fill_rows(lengths, 100)
    assert sorted(number for row in rows for number in row) == list(range(40)) and rows == sorted(map(sorted, rows))
    sizes = [sum(lengths[number] for number in row) for row in rows]
    assert max(sizes) <= 100 and len(rows) <= 11 / 9 * -(-sum(lengths) // 100) + 1
    assert sum(sizes) >= 0.85 * max(sizes) * len(rows)


def test_rows_end_at_about_the_same_position() -> None:
    """fails when all rows but the last are full: the last would be padded up to them"""
    assert fill_rows([10] * 9, 60) == [[0, 2, 4, 6, 8], [1, 3, 5, 7]]
    assert fill_rows([10] * 9, 1000) == [list(range(9))]
    assert fill_rows([], 10) == [] and fill_rows([7], 10) == [[0]]


def test_rows_of_first_fit_stay_where_level_rows_would_exceed_the_budget() -> None:
    """fails when rows are leveled beyond the budget: 3 3 2 2 2 in rows of 6 are 3+3 and 2+2+2, level ones have 7"""
    assert fill_rows([3, 3, 2, 2, 2], 6) == [[0, 1], [2, 3, 4]]


def test_a_conversation_above_the_budget_has_a_row_of_its_own() -> None:
    """fails when it is dropped, shares a row, or the search for a row never ends"""
    assert [0] in fill_rows([50, 4, 5], 10) and sorted(one for row in fill_rows([50, 4, 5], 10) for one in row) == [
        0,
        1,
        2,
    ]
