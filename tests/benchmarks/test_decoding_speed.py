"""benchmarks/decoding_speed.py: the decode loop is as fast as transformers' generate, and a batch pays."""

from __future__ import annotations

import pytest
import torch

from benchmarks.decoding_speed import SIZES, joined, measured, of_transformers


@pytest.mark.slow
def test_a_batch_has_four_times_the_throughput_of_one_prompt() -> None:
    """fails when a step of our loop costs more than one of transformers, or sequences that joined hold each other up"""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = measured(SIZES["tiny"], "cpu", rounds=7)
    finally:
        torch.set_num_threads(threads)
    assert found["equal"]
    assert found["ours, 1 / transformers, 1"] >= 0.9, found  # 1.1 where nothing else runs
    assert found["joined, 8 / transformers, 1"] >= 4.0, found  # 6


def test_what_is_timed_gives_the_same_answers() -> None:
    """fails when the sides of the benchmark answer different prompts, or stop early"""
    size = SIZES["tiny"]
    language = size.model("cpu")
    ids = torch.randint(3, size.vocabulary, (3, 6), generator=torch.Generator().manual_seed(1))
    expected = [of_transformers(language, one[None, at:], 5)[0] for at, one in enumerate(ids)]
    assert joined(language, ids, 5) == expected and all(len(one) == 5 for one in expected)
