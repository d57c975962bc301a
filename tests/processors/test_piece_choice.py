"""Which frames are taken, by formula and golden."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from chatbridge.processors.piece_choice import groups, sample_frames, uniform_frames


def test_groups_are_those_of_array_split():
    """Fails when groups overlap, leave a gap or are not nearly equal."""
    for length in range(1, 40):
        for count in range(1, length + 1):
            want = [(int(part[0]), len(part)) for part in np.array_split(np.arange(length), count)]
            assert groups(length, count) == want
    assert groups(2, 4) == [(0, 1), (1, 1), (1, 1), (1, 1)]
    with pytest.raises(ValueError, match="4 of 0"):
        groups(0, 4)


def test_training_takes_any_member_evaluation_the_middle():
    """Fails when training cannot reach a frame or leaves its group, or evaluation is not the lower middle."""
    rng = np.random.default_rng(3)
    drawn = np.array([sample_frames(10, 4, rng) for _ in range(300)])
    assert [sorted(set(column)) for column in drawn.T] == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert sample_frames(10, 4) == [1, 4, 6, 8]
    assert sample_frames(10, 4, np.random.default_rng(5)) == sample_frames(10, 4, np.random.default_rng(5))


def test_uniform_starts_at_zero_and_has_no_extra_index():
    """Fails when float steps return an index too many (7 of 17)."""
    assert uniform_frames(17, 7) == [0, 2, 4, 7, 9, 12, 14]
    assert uniform_frames(3, 8) == [0, 1, 2]


def test_golden_tables(reference: Path):
    """Fails when a group, an evaluation pick or a uniform pick differs from the reference, its float slips left out."""
    facts = json.loads((reference / "golden" / "chatbridge_frame_sampling.json").read_text())
    for row in facts["split"]:
        found = groups(row["length"], row["sample_num"])
        assert [first for first, _ in found] == row["group_first"]
        assert [first + size - 1 for first, size in found] == row["group_last"]
        assert sample_frames(row["length"], row["sample_num"]) == row["eval"]
    for row in facts["uniform"]:
        assert row.get("float_defect") or uniform_frames(row["length"], row["n"]) == row["indices"]
    more = json.loads((reference / "golden" / "multis_chatbridge.json").read_text())["split"]
    for row in more:
        assert sample_frames(row["n_items"], row["sample_num"]) == row["eval_pick"]
