"""Held-out samples are never drawn for training, and the others are drawn as if the source had only those."""

from __future__ import annotations

import numpy as np
import pytest

from chatbridge.datasets.order.held_out import RestShuffle, held_out, without_held_out
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.order.shuffle import FullShuffle


def mixture(number: int, seed: int = 3, size: int = 23) -> Mixture:
    sources = {"a": range(size), "b": range(9)}
    return Mixture(sources, {"a": 1.0, "b": 1.0}, seed, 8, held_out={"a": number})


@pytest.mark.parametrize("number", [0, 1, 5, 22])
def test_every_pass_has_each_of_the_other_samples_once(number):
    """fails when a held-out sample is trained on, another one is lost, or the size of a pass is wrong"""
    one = mixture(number)
    held, left = set(one.held_out["a"].tolist()), one.sizes["a"]
    assert len(held) == number and left == 23 - number and one.sizes["b"] == 9
    for start in (0, left, 7 * left):
        drawn = [one.index("a", at) for at in range(start, start + left)]
        assert sorted(drawn) == sorted(set(range(23)) - held)


def test_steps_draw_no_held_out_sample():
    """fails when the draws of steps come from another order than `index`"""
    one = mixture(10)
    drawn = {draw.index for step in range(60) for draw in one.draws(step) if draw.source == "a"}
    assert drawn == set(range(23)) - set(one.held_out["a"].tolist())


def test_a_replacement_is_never_a_held_out_sample():
    """fails when an unreadable sample is replaced by one of the validation, or a replacement comes twice"""
    one = mixture(10)
    for draw in [draw for draw in one.draws(0) if draw.source == "a"]:
        found = [one.replacement(draw, attempt) for attempt in range(one.sizes["a"])]
        assert sorted(found) == sorted(set(range(23)) - set(one.held_out["a"].tolist()))


def test_the_choice_depends_on_seed_and_source_only():
    """fails when held-out samples change with the batch, the weights, or a restart; and when the seed has no effect"""
    assert held_out("a", 1000, 20, seed=1).tolist() == held_out("a", 1000, 20, seed=1).tolist()
    others = [held_out("a", 1000, 20, seed=2), held_out("b", 1000, 20, seed=1)]
    assert all(other.tolist() != held_out("a", 1000, 20, seed=1).tolist() for other in others)


def test_without_held_out_samples_the_order_is_the_old_one():
    """fails when a run without validation reads its data in another order than before"""
    order = FullShuffle("a", 23, 3)
    same, held = without_held_out(order, 0)
    assert same is order and not len(held)


def test_a_stream_holds_out_nothing():
    """fails when samples of a remote source, which come as a stream, are believed to be held out"""

    class Stream:
        def indices(self, drawn):
            return drawn

        def replacement(self, drawn, index, attempt):
            return index

    stream = Stream()
    assert without_held_out(stream, 5)[0] is stream


def test_samples_between_held_out_ones_are_found():
    """fails when the arithmetic over neighbours in the list of held-out samples is off by one"""
    rest = RestShuffle(FullShuffle("a", 4, 0), np.array([0, 1, 4, 6]))
    assert rest._samples(np.arange(4)).tolist() == [2, 3, 5, 7]
