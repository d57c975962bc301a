"""The resampler: frames, masks, widths, and settings that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from chatbridge.common.errors import ConfigError
from chatbridge.common.types import Features
from chatbridge.config.schema import parse
from chatbridge.models.bridges.resampler import Resampler
from chatbridge.models.config import ModelConfig
from chatbridge.models.flamingo_names import (
    block_name,
    released_block_name,
    released_resampler_name,
    resampler_name,
)
from tests.helpers.gated_models import GATED, PARTS, RESAMPLER, gated
from tests.helpers.tiny_models import model_mapping
from tests.helpers.tolerances import FP32


def resampler(out_width: int = 16, **settings: Any) -> Resampler:
    torch.manual_seed(0)
    sizes = {key: value for key, value in RESAMPLER.items() if key != "name"}
    return Resampler(parse(Resampler.Config, {**sizes, **settings}), {"video": 16}, out_width).eval()


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_the_order_of_frames_is_seen_with_their_vectors_alone() -> None:
    """Fails when frames that change places give other tokens without vectors, or the same ones with them."""
    x = features(2, 3 * 4, 16)
    turned = x.unflatten(1, (3, 4)).flip(1).flatten(1, 2)
    for most, is_same in ((None, True), (3, False)):
        bridge = resampler(max_frames=most)
        one, other = (bridge(Features(each, frames=3), "video") for each in (x, turned))
        assert torch.allclose(one, other, atol=1e-5) == is_same
    with pytest.raises(ValueError, match="4 frames, but max_frames has vectors for 3 only"):
        bridge(Features(features(2, 4, 16), frames=4), "video")


def test_masked_features_are_not_read() -> None:
    """Fails when tokens depend on masked features, or an item without any valid one has no finite tokens."""
    bridge, x = resampler(), features(3, 5, 16)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False], [False] * 5])
    tokens = bridge(Features(x, mask), "video")
    torch.testing.assert_close(tokens[1:2], bridge(Features(x[1:2, :3]), "video"), atol=FP32, rtol=FP32)
    torch.testing.assert_close(bridge(Features(x + 1e3 * ~mask[..., None], mask), "video"), tokens)
    assert bool(tokens.isfinite().all())


def test_another_width_takes_one_more_layer() -> None:
    """Fails when a bridge of the released width has tensors that the release lacks, or `output_std` has no effect."""
    same, other = resampler(16, output_std=0.1), resampler(20, output_std=0.1)
    assert set(other.state_dict()) - set(same.state_dict()) == {"output.weight", "output.bias"}
    for bridge, width in ((same, 16), (other, 20)):
        tokens = bridge(Features(features(50, 6, 16)), "video")
        assert tokens.shape == (50, 3, width) and 0.05 < float(tokens.detach().std()) < 0.2


def test_released_names_and_ours() -> None:
    """Fails when a name of ours has no released one, or two of them have the same."""
    fusion: Any = gated().fusion
    for part, back, name in (
        (resampler(max_frames=2), released_resampler_name, resampler_name),
        (fusion.layers["1"], released_block_name, block_name),
    ):
        ours = list(part.state_dict())
        released = [back(one) for one in ours]
        assert [name(one) for one in released] == ours == [name(one) for one in ours]
        assert len(set(released)) == len(ours)
    assert resampler_name("perceiver.layers.5.1.3.weight") == "blocks.5.feed_forward.down.weight"


def test_settings_that_cannot_be_are_reported_together() -> None:
    """Fails when a route that reads more frames than there are vectors, or a size of zero, is found while training."""
    wrong = {**RESAMPLER, "max_frames": 1, "num_latents": 0}
    with pytest.raises(ConfigError) as error:
        parse(ModelConfig, model_mapping(**{**PARTS, "fusion": GATED, "bridges": {"seen": wrong, "heard": RESAMPLER}}))
    assert {one.path for one in error.value.problems} == {"bridges.seen.num_latents"}
    right = {**wrong, "num_latents": 2}
    with pytest.raises(ConfigError, match="has vectors for 1 frames, but the route of video reads 2 at once"):
        parse(ModelConfig, model_mapping(**{**PARTS, "fusion": GATED, "bridges": {"seen": right, "heard": RESAMPLER}}))
