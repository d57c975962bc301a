"""MFU: the operations of a batch, packed or not, over the rate that the device can reach."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chatbridge.common.types import Segments
from chatbridge.models.flops import StepFlops
from chatbridge.models.memory import checkpoint_activations
from chatbridge.runners import peak_rate as module
from chatbridge.runners.peak_rate import batch_flops, peak_rate
from tests.helpers.tiny_models import batch, tiny_model
from tests.helpers.tiny_parts import TinyLoader


def test_the_rate_of_a_cpu_is_measured_without_changing_the_random_state():
    """fails when a training depends on whether its MFU is measured, or the rate is off by a factor of a thousand"""
    before = torch.get_rng_state()
    rate = peak_rate(torch.device("cpu"), torch.float32)
    assert torch.equal(before, torch.get_rng_state())
    assert rate is not None and 1e8 < rate < 1e14


@pytest.mark.parametrize(
    ("name", "dtype", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989e12),
        ("NVIDIA H100 80GB HBM3", torch.float32, None),
        ("Some GPU 2040", torch.bfloat16, None),
    ],
)
def test_a_gpu_without_a_known_rate_has_no_mfu(monkeypatch, name, dtype, rate):
    """fails when the MFU of an unknown GPU, or of fp32, is measured against the rate of something else"""
    monkeypatch.setattr(module.torch.cuda, "get_device_name", lambda device: name)
    assert peak_rate(torch.device("cuda"), dtype) == rate


def test_packed_rows_count_the_pairs_within_conversations():
    """fails when attention between packed conversations, which is not computed, counts as work"""
    (batch,) = TinyLoader().batches(0)[:1]
    assert module._pairs(batch) is None
    one = torch.tensor([[0, 0, 1, 1, 1, -1], [0, 0, 0, 0, -1, -1]])
    batch.segments = Segments(one, torch.zeros_like(one), torch.full_like(one, 6))
    assert module._pairs(batch) == 2**2 + 3**2 + 4**2


def test_a_model_that_cannot_be_counted_has_no_mfu(monkeypatch):
    """fails when a part of a plugin that does not run on the meta device ends a run, or counts as nothing"""

    def broken(*_: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(StepFlops, "__init__", lambda self, model: None)
    monkeypatch.setattr(StepFlops, "__call__", broken)
    count: Any = batch_flops(torch.nn.Identity())  # pyright: ignore[reportArgumentType]
    assert count(TinyLoader().batches(0)[0]) != count(TinyLoader().batches(0)[0]), "nan"


def test_mfu_does_not_count_what_is_computed_again():
    """fails when activation checkpointing raises the MFU: the count measures a forward pass that is repeated"""
    counts = []
    for patterns in ((), ("*",)):
        model = tiny_model()
        count = batch_flops(model)
        checkpoint_activations(model, patterns)
        counts.append(count(batch(model, ("image", "audio"))))
    assert counts[0] == counts[1] > 0
