"""What identifies the output of a processor, and what training draws from an item."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.description import description, library_versions
from chatbridge.processors.hf_audio import ExtractorAudioProcessor, build_extractor
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.limits import Limits
from chatbridge.processors.video import VideoProcessor


@pytest.mark.parametrize(
    "other",
    [
        ImageProcessor(size=29),
        ImageProcessor(size=28, train=True),
        ImageProcessor(size=28, antialias=False),
        ImageProcessor(size=28, lean=True),
        ImageProcessor(size=28, mean=(0.5, 0.5, 0.5)),
        ImageProcessor(size=28, background=None),
        ImageProcessor(size=28).within(Limits(pixels="float")),
        ImageProcessor(size=28).within(Limits(max_pixels=10)),
        type("Mine", (ImageProcessor,), {})(size=28),
    ],
)
def test_whatever_changes_an_image_is_described(other):
    """fails when two ways to read an image would share features"""
    assert description(other) != description(ImageProcessor(size=28))
    assert json.loads(json.dumps(description(other))) == description(other)


def test_what_changes_no_output_is_not_described():
    """fails when a time limit or the number of frames makes a cache useless"""
    image = ImageProcessor(size=28)
    assert description(image) == description(image.within(Limits(time_limit_s=1.0, piece_choice="fixed")))
    assert description(VideoProcessor(image, 2)) == description(VideoProcessor(image, 4))


def test_the_library_that_decodes_videos_is_described():
    """fails when frames of another decoder, which may be other ones, count as the same"""
    image = ImageProcessor(size=28)
    named = VideoProcessor(image).within(Limits(video_backend="pyav"))
    found = {description(VideoProcessor(image, backend=one))["backend"] for one in ("pyav", "decord", "torchcodec")}
    assert found == {"pyav", "decord", "torchcodec"} and description(named)["backend"] == "pyav"
    assert description(VideoProcessor(image))["backend"] in found


def test_an_extractor_of_transformers_is_described():
    """fails when its settings are missed, or a description differs between processes"""
    one, other = (
        description(ExtractorAudioProcessor(build_extractor(None, "whisper", {"feature_size": bins})))
        for bins in (80, 128)
    )
    assert one != other and one["extractor"]["feature_size"] == 80
    assert json.loads(json.dumps(one)) == one


def test_libraries_are_named():
    """fails when the record of a cache does not say what made it"""
    assert {"torch", "pillow"} <= set(library_versions())


@pytest.mark.parametrize("processor", [VideoProcessor(ImageProcessor(size=28), 2), AudioProcessor(num_clips=2)])
def test_fixed_pieces_are_those_of_evaluation(processor):
    """fails when piece_choice: fixed still draws, or random pieces count as fixed ones"""
    fixed = processor.within(replace(Limits(), piece_choice="fixed"))
    assert processor.draws.endswith("data.media.piece_choice: fixed takes fixed ones") and fixed.draws is None
    rng = np.random.default_rng(0)
    assert processor.piece_rng(rng) is rng and fixed.piece_rng(rng) is None
    assert ImageProcessor(size=28).draws is None
