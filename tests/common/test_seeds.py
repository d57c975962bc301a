import random

import numpy as np
import pytest
import torch

from chatbridge.common import seeds
from chatbridge.common.seeds import generator, number, seed_everything, stream


def test_streams_are_pure_functions_of_their_name():
    """fails when a stream depends on what was drawn before, or is another one on the next machine (pinned numbers)"""
    np.random.default_rng().random(10)
    assert number(7, "frames", 3, 4) == 2383387184400723773
    assert stream(7, "frames", 3, 4).integers(0, 1000, 5).tolist() == [132, 600, 253, 955, 971]
    assert stream(7, "frames", 3, np.int64(4)).random() == stream(7, "frames", 3, 4).random()


def test_streams_differ_in_every_part_of_their_name():
    """fails when two purposes, seeds or counters share their random numbers, or (1, 23) is mixed up with (12, 3)"""
    names = [
        (7, "a", 1, 23),
        (7, "a", 12, 3),
        (7, "a", 123),
        (7, "a", 1, 2, 3),
        (71, "a", 23),
        (7, "b", 1, 23),
        (7, "a"),
    ]
    names += [(seed, "a", counter) for seed in range(50) for counter in range(-5, 50)]
    assert len({number(*name) for name in names}) == len(set(names))


def test_a_counter_is_a_whole_number():
    """fails when a float step counter gives a stream of its own without a word"""
    with pytest.raises(TypeError):
        stream(7, "a", 1.0)  # type: ignore


def test_torch_streams():
    """fails when torch's stream of a name is not reproducible, or touches the global generator"""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (torch.rand(3, generator=generator(7, "a", counter)) for counter in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_the_global_generators_are_seeded():
    """fails when code that knows no streams draws other numbers in the second run of the same seed"""

    def draw(*seeds: int) -> tuple[float, ...]:
        seed_everything(*seeds)
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    assert draw(7) == draw(7)
    assert all(one != other for one, other in zip(draw(7), draw(8)))
    assert all(one != other for one, other in zip(draw(7, 1), draw(7, 2)))


def test_a_late_stream_draws_the_same_numbers(monkeypatch):
    """fails when samples that draw nothing pay for a generator, or those that draw get other numbers"""
    wanted = seeds.stream(7, "frames", 3)
    late = seeds.lazy_stream(7, "frames", 3)
    assert [late.integers(100), late.random()] == [wanted.integers(100), wanted.random()]
    monkeypatch.setattr(seeds, "stream", lambda *name: 1 / 0)
    seeds.lazy_stream(7, "frames", 3)
