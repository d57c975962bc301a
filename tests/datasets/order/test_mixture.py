"""The order of the data: a pure function of (seed, step, position)."""

from __future__ import annotations

import numpy as np
import pytest

from chatbridge.common.errors import DataError
from chatbridge.datasets.order.mixture import BLOCK, Draw, Mixture, split


def mixture(sizes=(7, 100, 1000), weights=(1.0, 2.5, 0.5), seed=3, global_batch=16, mix="sample") -> Mixture:
    names = "abcdefgh"[: len(sizes)]
    sources = {name: range(size) for name, size in zip(names, sizes)}
    return Mixture(sources, dict(zip(names, weights)), seed, global_batch, mix)


def draws_of(mix: Mixture, source: str, steps) -> list[Draw]:
    return [draw for step in steps for draw in mix.draws(step) if draw.source == source]


def test_the_order_is_pinned():
    """fails when an edit changes the order of the data of runs that are to be resumed"""
    assert [(d.source, d.index, d.drawn) for d in mixture().draws(5)[:6]] == PINNED
    assert [(d.source, d.index, d.drawn) for step in (40, 41, 42) for d in stepped().draws(step)[:2]] == PINNED_STEPS
    sliced = Mixture({name: range(90) for name in "abc"}, dict.fromkeys("abc", 1), 3, 8, "micro", micro_batch=2)
    assert [(d.source, d.index, d.drawn) for d in sliced.draws(31)] == PINNED_SLICES


@pytest.mark.parametrize("mix", ["sample", "step"])
def test_seeking_equals_walking(mix):
    """fails when a step depends on earlier calls"""
    walked = mixture(mix=mix)
    steps = [walked.draws(step) for step in range(40)]
    for step in (39, 0, 17, 17, 38):
        assert mixture(mix=mix).draws(step) == steps[step]
        assert walked.draws(step) == steps[step]
    assert walked.index(steps[17][5].source, steps[17][5].drawn) == steps[17][5].index


@pytest.mark.parametrize("mix", ["sample", "step"])
def test_draw_numbers_count_each_source_without_gap(mix):
    """fails when a draw number is skipped or given twice, also across the border of a block"""
    several = mixture(global_batch=512, mix=mix)
    begin = BLOCK // 512 - 3 if mix == "sample" else BLOCK - 3
    before = several.counts(begin)
    for source in several.names:
        drawn = [draw.drawn for draw in draws_of(several, source, range(begin, begin + 6))]
        assert drawn == list(range(before[source], before[source] + len(drawn)))
    after = several.counts(begin + 6)
    assert sum(after.values()) == 512 * (begin + 6)
    assert mixture(global_batch=512, mix=mix).counts(0) == dict.fromkeys("abc", 0)


@pytest.mark.parametrize("mix", ["sample", "step"])
def test_every_pass_holds_every_sample_once_in_a_new_order(mix):
    """fails when a pass repeats or misses a sample, or the second pass has the order of the first"""
    several = mixture(sizes=(40, 100), weights=(1, 1), global_batch=8, mix=mix)
    seen = [draw.index for draw in draws_of(several, "a", range(60))]
    passes = [seen[start : start + 40] for start in range(0, 160, 40)]
    assert all(sorted(one) == list(range(40)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4


def test_shares_follow_the_weights():
    """fails when weights are ignored, a tiny weight is lost, or a zero weight is drawn"""
    weights = (3.0, 12.0, 200.0, 3.0, 0.0, 1.0, 1e-4, 0.0)
    several = mixture(sizes=(10,) * 8, weights=weights, global_batch=1)
    blocks = 40
    counts = several.counts(blocks * BLOCK)
    for name, weight in zip("abcdefgh", weights):
        assert abs(counts[name] / (blocks * BLOCK) - weight / sum(weights)) < 1.5 / BLOCK
    assert counts["e"] == counts["h"] == 0
    assert abs(several.counts(10_000 * BLOCK)["g"] - 10_000 * BLOCK * 1e-4 / sum(weights)) < 60, "299 expected"


def test_short_stretches_look_independent():
    """fails when sources come in a regular pattern instead of at random"""
    several = mixture(sizes=(10, 10), weights=(1, 3), global_batch=20)
    per_step = [sum(draw.source == "a" for draw in several.draws(step)) for step in range(400)]
    assert abs(np.mean(per_step) - 5) < 0.4
    assert abs(np.var(per_step) - 20 * 0.25 * 0.75) < 0.9


def test_step_mix_has_one_source_per_step():
    """fails when a step of a homogeneous mixture holds two sources"""
    several = mixture(mix="step")
    sources = [{draw.source for draw in several.draws(step)} for step in range(100)]
    assert all(len(one) == 1 for one in sources) and len(set.union(*sources)) == 3


BATCHES = {"a": 4, "b": 16}


def stepped() -> Mixture:
    sources = {name: range(100) for name in "abc"}
    return Mixture(sources, {"a": 1, "b": 2, "c": 1}, 3, 8, "step", batches=BATCHES)


def test_a_step_has_the_batch_of_its_source():
    """fails when a source has the batch of another, or draw numbers have gaps where batches differ"""
    several = stepped()
    steps = [several.draws(step) for step in range(200)]
    assert {(step[0].source, len(step)) for step in steps} == {("a", 4), ("b", 16), ("c", 8)}
    assert all(len({draw.source for draw in step}) == 1 for step in steps)
    for source in "abc":
        numbers = [draw.drawn for step in steps for draw in step if draw.source == source]
        assert numbers == list(range(several.counts(200)[source]))
    assert several.expected(200) == pytest.approx({"a": 200, "b": 1600, "c": 400})
    assert stepped().draws(150) == steps[150]


def test_every_slice_of_a_micro_mix_has_one_source():
    """fails when a micro-batch holds two sources, slices follow each other, or ranks change the order"""
    sources = {name: range(40) for name in "ab"}
    several = Mixture(sources, {"a": 1, "b": 1}, 3, 16, "micro", micro_batch=4)
    steps = [several.draws(step) for step in range(100)]
    slices = [[draw.source for draw in step[start : start + 4]] for step in steps for start in range(0, 16, 4)]
    assert all(len(set(one)) == 1 for one in slices)
    assert 0.3 < np.mean([one[0] == "a" for one in slices]) < 0.7
    assert sum(len({draw.source for draw in step}) == 2 for step in steps) > 60
    for source in "ab":
        numbers = [draw.drawn for step in steps for draw in step if draw.source == source]
        assert numbers == list(range(several.counts(100)[source]))
    for world, accumulate in ((1, 4), (2, 2), (4, 1)):
        parts = [split(steps[7], rank, world, accumulate) for rank in range(world)]
        assert [d for micro in range(accumulate) for part in parts for d in part[micro]] == steps[7]
        assert all(len({draw.source for draw in micro}) == 1 for part in parts for micro in part)
    with pytest.raises(DataError, match="16 conversations per step do not divide into slices of 3"):
        Mixture(sources, {"a": 1, "b": 1}, 3, 16, "micro", micro_batch=3)
    with pytest.raises(DataError, match='in mix "step" only'):
        Mixture(sources, {"a": 1, "b": 1}, 3, 16, batches={"a": 4})


class Backwards:
    """A source with an order of its own."""

    description = "in reverse"

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def shuffle(self, seed: int) -> Backwards:
        return self

    def indices(self, drawn):
        return self.size - 1 - drawn % self.size

    def replacement(self, drawn: int, index: int, attempt: int) -> int:
        return (index + attempt) % self.size


def test_a_source_may_have_its_own_shuffle():
    """fails when the order or the replacements of a source's own shuffle are not used"""
    several = Mixture({"own": Backwards(5), "b": range(5)}, {"own": 1, "b": 1}, 3, 8)
    mine = [draw for step in range(4) for draw in several.draws(step) if draw.source == "own"]
    assert [draw.index for draw in mine] == [4 - draw.drawn % 5 for draw in mine]
    assert [several.replacement(mine[0], attempt) for attempt in range(3)] == [4, 0, 1]
    assert several.shuffles["own"].description == "in reverse"


def test_a_further_source_does_not_change_the_order_inside_a_source():
    """fails when adding a data set reshuffles the samples of the others"""
    assert [mixture().index("b", k) for k in range(50)] == [
        mixture(sizes=(7, 100), weights=(1, 1)).index("b", k) for k in range(50)
    ]
    assert [mixture(seed=4).index("b", k) for k in range(50)] != [mixture().index("b", k) for k in range(50)]


def test_replacements_are_different_samples_and_repeatable():
    """fails when a broken sample is replaced by itself, or differently after a resume"""
    several = mixture()
    draw = next(draw for draw in several.draws(2) if draw.source == "b")
    chosen = [several.replacement(draw, attempt) for attempt in range(100)]
    assert chosen == [mixture().replacement(draw, attempt) for attempt in range(100)]
    assert chosen[0] == draw.index and sorted(chosen) == list(range(100)), "every attempt is another sample"
    other = next(other for other in several.draws(3) if other.source == "b")
    offsets = [(index - draw.index) % 100 for index in chosen]
    assert offsets != [(several.replacement(other, k) - other.index) % 100 for k in range(100)], (
        "another draw, another way"
    )
    with pytest.raises(DataError, match="no replacement number 1"):
        mixture(sizes=(1,), weights=(1,)).replacement(Draw("a", 0, 0), 1)


def test_ranks_share_a_step():
    """fails when 1 x 16 and 2 x 8 differ as a set, or a conversation is read twice"""
    draws = mixture().draws(9)
    for world, accumulate in ((1, 1), (2, 1), (2, 2), (4, 4)):
        parts = [split(draws, rank, world, accumulate) for rank in range(world)]
        assert sorted((d.source, d.drawn) for part in parts for micro in part for d in micro) == sorted(
            (d.source, d.drawn) for d in draws
        )
        together = [d for micro in range(accumulate) for part in parts for d in part[micro]]
        assert together == draws, "micro-batch m holds the same conversations for any number of ranks"
    with pytest.raises(ValueError, match="16 conversations do not divide into 3 ranks"):
        split(draws, 0, 3, 1)


@pytest.mark.parametrize(
    "sizes, weights, message",
    [
        ((0, 5), (1, 1), "'a' is empty"),
        ((5, 5), (1, -1), "weight is -1"),
        ((5, 5), (1, float("nan")), "weight is nan"),
        ((5, 5), (0, 0), "no source with a weight"),
        ((), (), "no source"),
    ],
)
def test_bad_mixtures_are_refused(sizes, weights, message):
    """fails when a mixture that cannot be drawn from is accepted"""
    with pytest.raises(DataError, match=message):
        mixture(sizes=sizes, weights=weights)


PINNED = [("b", 91, 45), ("b", 49, 46), ("b", 18, 47), ("b", 14, 48), ("b", 89, 49), ("c", 260, 11)]

PINNED_STEPS = [("c", 74, 96), ("c", 6, 97), ("a", 5, 32), ("a", 21, 33), ("b", 77, 320), ("b", 50, 321)]

PINNED_SLICES = [
    ("a", 79, 92), ("a", 76, 93), ("c", 16, 82), ("c", 74, 83), ("c", 88, 84), ("c", 52, 85), ("a", 68, 94),
    ("a", 27, 95),
]  # fmt: skip
