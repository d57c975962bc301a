"""A planned batch holds the media that a real one of this shape holds."""

from __future__ import annotations

import pytest

from chatbridge.runners.planned_step.synthetic_batch import PlannedBatch, synthetic_batch

SLOTS = {"image": 8, "audio": 8, "video": 16}


def test_every_item_has_its_own_positions_in_one_row():
    """fails when items of several modalities are put into the same rows although others are empty"""
    media = {"image": (23, 3, 4, 4), "audio": (5, 1, 4, 4), "video": (4, 4, 3, 4, 4)}
    shape = PlannedBatch(rows=32, length=20, points=40, media=media)
    slots = synthetic_batch(shape, SLOTS, "cpu").media_slots
    assert {name: tuple(one.shape) for name, one in slots.items()} == {
        "image": (23, 8),
        "audio": (5, 8),
        "video": (4, 16),
    }
    taken = [position for one in slots.values() for position in one.flatten().tolist()]
    assert len(set(taken)) == len(taken)
    assert all(item[0] // 20 == item[-1] // 20 and item[0] % 20 for one in slots.values() for item in one.tolist())


def test_media_that_no_row_can_hold_are_told():
    """fails when items share positions"""
    shape = PlannedBatch(rows=2, length=20, points=4, media={"image": (5, 3, 4, 4)})
    with pytest.raises(ValueError, match="5 items of 8 slots do not fit into rows of 20 positions"):
        synthetic_batch(shape, SLOTS, "cpu")


@pytest.mark.parametrize("factor", [1 / 32, 1 / 8, 1 / 2])
def test_a_smaller_batch_of_several_modalities_still_fits(factor: float):
    """fails when items are rounded up per modality and rows are not: three items in the one row of a probe"""
    media = {"audio": (4, 1, 8, 8), "image": (8, 3, 4, 4), "video": (20, 4, 3, 4, 4)}
    shape = PlannedBatch(rows=32, length=10, points=40, media=media).times(factor)
    assert synthetic_batch(shape, dict.fromkeys(media, 8), "cpu").ids.shape[0] == shape.rows
