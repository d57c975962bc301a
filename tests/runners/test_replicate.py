"""Promise 3: k micro-batches on n ranks give the gradient of one big batch, whatever modalities a rank sees."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from chatbridge.common.dist import Dist
from chatbridge.runners.parallel.norm import sum_of_squares
from chatbridge.runners.parallel.replicate import Replicated
from tests.helpers.ranks_gradients import CASES
from tests.helpers.tiny_parts import TinyLoader, TinyModel, batch_of, loss_of, rows, trainable
from tests.helpers.tolerances import FP32


def test_two_ranks_with_mixed_modalities_equal_one_big_batch(ranks):
    """fails when a rank waits for a modality it does not have, a gradient is summed twice or not at all, or the
    loss is a mean of means"""
    printed = ranks(Path(__file__).parents[1] / "helpers" / "ranks_gradients.py")
    assert [line for line in printed.stdout.splitlines() if line.startswith("ok: ")] == [
        f"ok: {name}" for name in CASES
    ]


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_equal_one_big_batch(accumulate):
    """fails when a micro-batch overwrites earlier gradients, or all micro-batches have the same weight"""
    model = TinyModel()
    gradients = Replicated(trainable(model), Dist())
    gradients.zero()
    batches = TinyLoader(accumulate=accumulate).batches(0)
    count = sum(batch.num_supervised for batch in batches)
    for batch in batches:
        (model(batch).total / count).backward()
    gradients.reduce()
    whole = TinyModel()
    total, count = loss_of(whole, batches)
    (total / count).backward()
    for name, parameter in trainable(whole).items():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradients.views[name], expected, rtol=FP32, atol=1e-6)


def test_zero_resets_all_gradients():
    """fails when a parameter that a step does not use keeps its gradient of an earlier step"""
    model = TinyModel()
    gradients = Replicated(trainable(model), Dist())
    gradients.zero()
    model(batch_of(rows(0, 2, "audio"))).total.backward()
    assert gradients.views["bridges.audio.weight"].abs().sum() > 0
    gradients.zero()
    model(batch_of(rows(0, 2, "image"))).total.backward()
    gradients.reduce()
    assert model.bridges["audio"].weight.grad is not None
    assert model.bridges["audio"].weight.grad.abs().sum() == 0


def test_clip_limits_the_norm_of_all_gradients_together():
    """fails when tensors are clipped one by one, small gradients are scaled up, or the returned norm is clipped"""
    parameters = {"a": nn.Parameter(torch.zeros(2)), "b": nn.Parameter(torch.zeros(1))}
    gradients = Replicated(parameters, Dist())
    gradients.zero()
    gradients.buffer.copy_(torch.tensor([3.0, 0.0, 4.0]))
    assert float(gradients.clip(10.0)) == pytest.approx(5.0)
    assert gradients.buffer.tolist() == [3.0, 0.0, 4.0]
    assert float(gradients.clip(1.0)) == pytest.approx(5.0)
    torch.testing.assert_close(gradients.buffer, torch.tensor([0.6, 0.0, 0.8]), rtol=1e-5, atol=0)
    assert parameters["b"].grad is not None and float(parameters["b"].grad) == pytest.approx(0.8)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_norm_is_not_finite_if_any_gradient_is_not(bad):
    """fails when the norm misses a single value that is not finite"""
    gradients = Replicated({"a": nn.Parameter(torch.zeros(1000))}, Dist())
    gradients.zero()
    gradients.buffer[123] = bad
    assert not torch.isfinite(gradients.clip(1.0))


def test_trainable_parameters_must_be_float32():
    """fails when a bf16 parameter is accepted as trainable"""
    with pytest.raises(ValueError, match="a is trainable but stored in torch.bfloat16"):
        Replicated({"a": nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))}, Dist())


@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_the_norm_is_exact_and_does_not_depend_on_how_values_are_cut(spread):
    """fails when a million squares are summed in fp32, one after the other: the norm is then off by 1e-5 or more, and
    by another amount when the same values lie in several tensors"""
    random = torch.Generator().manual_seed(0)
    values = torch.randn(1_000_003, generator=random) * torch.exp(spread * torch.randn(1_000_003, generator=random))
    exact = math.sqrt(math.fsum((values.double() ** 2).tolist()))
    gradients = Replicated({"a": nn.Parameter(torch.zeros(1_000_003))}, Dist())
    gradients.buffer.copy_(values)
    assert float(gradients.norm()) == pytest.approx(exact, rel=6e-8)  # half a unit in the last place of fp32
    parts = values.split([1, 499_999, 0, 500_003])
    assert float(sum(map(sum_of_squares, parts))) == pytest.approx(exact**2, rel=1e-13)
