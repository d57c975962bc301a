"""Batches: one prompt taken out of a batch has what it would have alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chatbridge.common.types import Batch, Features, Segments


def batch() -> Batch:
    """Three prompts of lengths 3, 5 and 4: an image in the first, two features of videos in the third."""
    nothing = torch.zeros(0, dtype=torch.int64)
    x, scale = torch.arange(12, dtype=torch.int8).view(2, 3, 2), torch.ones(2, 3, 1)
    return Batch(
        ids=torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8], [9, 10, 11, 12, 0]]),
        positions=torch.arange(5).repeat(3, 1),
        lengths=torch.tensor([3, 5, 4]),
        predict_at=nothing,
        target=nothing,
        media={
            "image": torch.ones(1, 3, 4, 4),
            "video": Features(x, torch.tensor([[True] * 3, [False] * 3]), 3, scale),
        },
        media_slots={"image": torch.tensor([[1, 2]]), "video": torch.tensor([[11], [13]])},
        sources=("a", "b", "c"),
        sample_ids=("x", "y", "z"),
    )


def test_a_row_has_its_own_media_without_padding() -> None:
    """fails when media or their slots are those of another row, or padding stays"""
    whole = batch()
    first, second, third = (whole.row(number) for number in range(3))
    assert first.ids.tolist() == [[1, 2, 3]] and first.media_slots["image"].tolist() == [[1, 2]]
    assert first.media.keys() == {"image"} and not second.media and second.ids.tolist() == [[4, 5, 6, 7, 8]]
    video = third.media["video"]
    assert isinstance(video, Features) and video.scale is not None and video.mask is not None
    assert third.media_slots["video"].tolist() == [[1], [3]] and video.frames == 3
    assert video.x.flatten().tolist() == list(range(12)) and video.mask.tolist() == [[True] * 3, [False] * 3]
    assert (third.sample_ids, third.sources, third.lengths.tolist()) == (("z",), ("c",), [4])
    assert third.media_rows == {"video": (0, 0)} and third.positions.tolist() == [[0, 1, 2, 3]]


def test_a_row_of_packed_conversations_is_refused() -> None:
    """fails when several conversations are taken for one prompt"""
    zeros = torch.zeros(3, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match="packed conversations"):
        replace(batch(), segments=Segments(zeros, zeros, zeros)).row(0)
