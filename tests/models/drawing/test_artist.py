"""Captions that a generator renders together, one of which it cannot render."""

from __future__ import annotations

import torch

from chatbridge.models.drawing.artist import Artist
from tests.helpers.drawn_rows import Numbered


def test_a_caption_that_fails_costs_its_own_image_only():
    """fails when a caption that cannot be rendered takes the images of the others with it, or their order changes"""
    generator = Numbered(broken="9")
    drawn = Artist(generator).draw(["1", "9", "2"], [0, 1, 2])
    assert [one.caption for one in drawn] == ["1", "9", "2"]
    assert [one.problem for one in drawn] == [None, "RuntimeError: no paint", None]
    for one, caption in ((drawn[0], "1"), (drawn[2], "2")):
        (expected,) = Numbered().render([caption], [0])
        assert one.image is not None and torch.equal(one.image, expected)
    assert generator.rendered == [["1", "9", "2"], ["1"], ["9"], ["2"]]
