"""The loss of a step from the sums of its micro-batches, with and without streams."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from chatbridge.common.dist import Dist
from chatbridge.common.types import Batch
from chatbridge.runners.step_loss import LossOfSteps
from tests.helpers.tiny_parts import STREAMS, TinyModel, batch_of, rows
from tests.helpers.tiny_run import tiny_runner


def joint_batches(seed: int = 0, count: int = 2) -> list[Batch]:
    """Micro-batches of both streams in turn, with different numbers of supervised tokens."""
    return [
        replace(batch_of(rows(seed + 3 * number + at, 1 + number, kind)), stream=stream)
        for number in range(count)
        for at, (stream, kind) in enumerate((("visual", "image"), ("language", None)))
    ]


def reference_loss(model: Any, batches: list[Batch], mean: str) -> torch.Tensor:
    """The sum over streams, written down once more without the code under test."""
    whole = torch.zeros(())
    for stream, weight in STREAMS.items():
        losses = [(model(batch).total, batch.num_supervised) for batch in batches if batch.stream == stream]
        if mean == "token":
            whole = whole + weight * sum(total for total, _ in losses) / sum(count for _, count in losses)
        else:
            whole = whole + weight * sum(total / count for total, count in losses) / len(losses)
    return whole


@pytest.mark.parametrize("mean", ["token", "micro_batch"])
def test_a_step_takes_the_gradient_of_the_weighted_sum_of_the_streams(tmp_path, mean):
    """fails when a stream with many tokens counts more than its weight, or the reported loss is another one"""
    runner = tiny_runner(tmp_path, model=TinyModel(), streams=STREAMS, loss_mean=mean, clip_norm=None)
    batches = joint_batches()
    wanted = reference_loss(model := TinyModel(), batches, mean)
    wanted.backward()
    result = runner.train_step(3, batches)
    assert result.loss == pytest.approx(wanted.item(), rel=1e-6) and result.weight == 1
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name, gradient in gradients.items():
        torch.testing.assert_close(runner.parallel.parameters[name].grad, gradient, rtol=1e-5, atol=1e-7)
    assert result.supervised == sum(batch.num_supervised for batch in batches)


def test_the_mean_per_token_of_one_stream_is_what_it_was_to_the_bit():
    """fails when runs without streams have other losses than before there were any"""
    batches = [batch_of(rows(number, 2, "image")) for number in range(3)]
    loss = LossOfSteps(Dist()).of(batches)
    totals = [float(TinyModel()(batch).total.detach()) for batch in batches]
    supervised = sum(batch.num_supervised for batch in batches)
    assert loss.value(totals) == sum(totals) / supervised and loss.weight == loss.supervised == supervised
    total = torch.tensor(1.2345678)
    assert torch.equal(loss.part(1, total), total / supervised)


def test_clipping_after_every_micro_step_is_that_of_the_published_loop(tmp_path):
    """fails when a micro-step before the last is not clipped, or is clipped between the two streams"""
    batches = joint_batches(count=3)
    whole = {}
    for every in ("step", "micro"):
        how = {"loss_mean": "micro_batch", "clip_every": every, "clip_norm": 0.05}
        runner = tiny_runner(tmp_path / every, model=TinyModel(), streams=STREAMS, **how)
        runner.train_step(3, batches)
        whole[every] = {name: p.grad.clone() for name, p in runner.parallel.parameters.items() if p.grad is not None}
    model = TinyModel()
    trained = [p for p in model.parameters() if p.requires_grad]
    for number in range(3):  # as in train_one_epoch of Multimodal-GPT: both backward passes, then the clip
        for batch in batches[2 * number : 2 * number + 2]:
            loss = model(batch)
            (STREAMS[batch.stream] * loss.total / loss.count / 3).backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.05)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(whole["micro"][name], parameter.grad, rtol=1e-4, atol=1e-7)
    assert any(not torch.allclose(whole["micro"][name], whole["step"][name], rtol=1e-2) for name in whole["step"])
