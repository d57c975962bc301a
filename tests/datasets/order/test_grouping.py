"""Slices of similar length: the same conversations, sorted, a pure function of (seed, step)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from chatbridge.datasets.order.grouping import GroupedOrder, grouped
from chatbridge.datasets.order.mixture import Draw, Mixture, split


def mixture(mix: str = "sample", **options) -> Mixture:
    sources = {"a": range(70), "b": range(300), "c": range(1000)}
    return Mixture(sources, {"a": 1.0, "b": 2.5, "c": 0.5}, 3, 24, mix, **options)  # pyright: ignore[reportArgumentType]


def lengths(draws: Sequence[Draw]) -> list[int]:
    return [20 + draw.index * 7919 % 57 for draw in draws]


def step_of(order: GroupedOrder, step: int) -> Counter[Draw]:
    return Counter(draw for one in order(step) for draw in one)


@pytest.mark.parametrize("mix", ["sample", "step", "micro"])
def test_a_window_of_one_step_keeps_the_conversations_of_every_step(mix):
    """fails when grouping inside a step adds, repeats or loses a conversation, which would change the gradient"""
    dealt = mixture(mix, micro_batch=4)
    order = GroupedOrder(dealt, lengths, num_slices=6)
    for step in range(12):
        assert step_of(order, step) == Counter(dealt.draws(step))
        assert [len(one) for one in order(step)] == [4] * 6


def test_slices_hold_similar_lengths_and_the_longest_come_first():
    """fails when slices are not sorted: ranks of one micro-step would wait for each other, and padding would stay"""
    order = GroupedOrder(mixture(), lengths, num_slices=6)
    flat = [length for one in order(3) for length in lengths(one)]
    assert flat == sorted(flat, reverse=True) and len(set(flat)) > 10
    dealt = split(mixture().draws(3), 0, 1, 6)
    assert padding(order(3)) < 0.1 < 0.2 < padding(dealt)


def padding(slices: Sequence[Sequence[Draw]]) -> float:
    positions = sum(max(lengths(one)) * len(one) for one in slices)
    return 1 - sum(sum(lengths(one)) for one in slices) / positions


@pytest.mark.parametrize("mix", ["sample", "step", "micro"])
def test_a_window_of_steps_uses_every_conversation_once(mix):
    """fails when a window of several steps repeats or loses a conversation, or changes how many a step has"""
    dealt = mixture(mix, micro_batch=4, **({"batches": {"a": 12}} if mix == "step" else {}))
    order = GroupedOrder(dealt, lengths, num_slices=6, window=5)
    for window in (0, 5, 20):
        steps = range(window, window + 5)
        assert sum((step_of(order, step) for step in steps), Counter()) == Counter(
            draw for step in steps for draw in dealt.draws(step)
        )
        assert [sum(map(len, order(step))) for step in steps] == [len(dealt.draws(step)) for step in steps]
    assert any(step_of(order, step) != Counter(dealt.draws(step)) for step in range(5))


@pytest.mark.parametrize("mix", ["step", "micro"])
@pytest.mark.parametrize("window", [1, 4])
def test_a_slice_keeps_its_one_source(mix, window):
    """fails when sorting mixes sources in a micro-batch that mix "step" or "micro" gives to one source"""
    dealt = mixture(mix, micro_batch=4)
    order = GroupedOrder(dealt, lengths, num_slices=6, window=window)
    for step in range(8):
        sources = [{draw.source for draw in one} for one in order(step)]
        assert all(len(one) == 1 for one in sources)
        before = Counter(one[0].source for one in split(dealt.draws(step), 0, 1, 6))
        assert Counter(next(iter(one)) for one in sources) == before


def test_a_seek_equals_a_walk():
    """fails when the content of a step depends on earlier calls, on the first step, or on the rank"""
    walked = GroupedOrder(mixture(), lengths, num_slices=6, window=4)
    steps = [walked(step) for step in range(12)]
    for step in (11, 2, 7, 3):
        assert GroupedOrder(mixture(), lengths, num_slices=6, window=4)(step) == steps[step] == walked(step)


def test_the_order_in_which_slices_go_to_steps_changes_between_windows():
    """fails when every window begins with its longest conversations: losses would go up and down with its period"""
    order = GroupedOrder(mixture(), lengths, num_slices=2, window=6)
    longest = [max(range(6), key=lambda step: max(lengths(order(first + step)[0]))) for first in range(0, 60, 6)]
    assert len(set(longest)) > 3


def test_equal_lengths_keep_the_dealt_order():
    """fails when the order among equal lengths is arbitrary, for example of remote shards, which are not measured"""
    dealt = mixture().draws(0)
    assert grouped([dealt], lambda draw: 0, 6, False) == [split(dealt, 0, 1, 6)]


def test_conversations_that_do_not_divide():
    """fails when the last conversations of a step are dropped in silence"""
    with pytest.raises(ValueError, match="24 conversations do not divide into 5 slices"):
        GroupedOrder(mixture(), lengths, num_slices=5)(0)
