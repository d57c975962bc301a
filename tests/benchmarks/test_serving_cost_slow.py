"""benchmarks/serving_cost.py: what questions cost that have something in common with earlier ones."""

from __future__ import annotations

import pytest

from benchmarks.serving_cost import NUM_TURNS, WANTED, measured


@pytest.mark.slow
def test_what_is_known_costs_little() -> None:
    """Fails when a question about the same media waits for them again, or a long conversation is read again at every
    turn. The times are medians of rounds within one process."""
    found = measured(rounds=5)
    ratios = found["ratios"]
    assert ratios["first / second question"] >= WANTED["first / second question"], found["first token"]
    assert ratios["last / second turn"] <= WANTED["last / second turn"], found["turns"]
    assert len(found["turns"]) == NUM_TURNS and found["turns"][5]["cached"] > 0.7 * found["turns"][5]["prompt"]
