"""Features as rows of bytes, and what that costs in precision."""

from __future__ import annotations

import pytest
import torch

from chatbridge.common.types import Features
from chatbridge.datasets.feature_cache.values import ALIGNED, RowLayout, StorageError


def features(dtype: torch.dtype = torch.float32, mask: torch.Tensor | None = None) -> Features:
    x = (
        torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
        * torch.tensor([0.01, 1.0, 300.0, 1.0, 0.0])[:, None]
    )  # tokens of very different sizes, one of zeros
    return Features(x.to(dtype), mask)


@pytest.mark.parametrize(("values", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_values_in_their_own_dtype_come_back_bit_for_bit(values, dtype):
    """fails when fp32 or bf16 features change, or another dtype is read back"""
    layout, given = RowLayout(5, 7, values), features(dtype)
    back = layout.features(layout.rows(given))
    assert back.x.dtype == dtype and torch.equal(back.x, given.x)
    assert back.mask is None and back.scale is None and back.frames == 3


def test_int8_is_off_by_half_a_scale_of_its_token_at_most():
    """fails when a scale is shared between tokens, values are cut off, or zeros divide by zero"""
    layout, given = RowLayout(5, 7, "int8"), features()
    back = layout.features(layout.rows(given))
    assert back.x.dtype == torch.int8 and back.scale.shape == (3, 5, 1)
    bound = given.x.abs().amax(-1, keepdim=True) / 127 / 2
    assert ((back.floats() - given.x).abs() <= bound * 1.0001).all()
    assert (back.x.abs().amax(-1)[:, :4] == 127).all()  # the whole range is used
    error = StorageError()
    error.add(given.x, back)
    assert 1e-4 < error.relative < 0.006 and error.largest <= 0.5 / 127 * 1.0001


def test_a_mask_comes_back():
    """fails when a mask is lost, or none becomes a mask"""
    mask = torch.tensor([[True, True, True, False, False]] * 3)
    layout = RowLayout(5, 7, "int8")
    assert torch.equal(layout.features(layout.rows(features(mask=mask))).mask, mask)


def test_rows_are_aligned_and_of_the_size_that_is_planned():
    """fails when the estimate of the space is not what is written"""
    for values in ("fp32", "bf16", "int8"):
        layout = RowLayout(5, 7, values)
        assert layout.rows(features()).shape == (3, layout.row_bytes) and layout.row_bytes % ALIGNED == 0
    assert RowLayout(257, 1408, "int8").row_bytes < 0.51 * RowLayout(257, 1408, "bf16").row_bytes


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(bad):
    """fails when a broken encoder fills a cache silently"""
    given = features()
    given.x[1, 2, 3] = bad
    with pytest.raises(ValueError, match="nan or inf"):
        RowLayout(5, 7, "bf16").rows(given)
