"""Exactly the trainable tensors change in the first step; otherwise the run stops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from chatbridge.common.errors import TrainingError
from chatbridge.runners.frozen_check import FrozenCheck
from tests.helpers.tiny_parts import TinyModel, trainable
from tests.helpers.tiny_run import tiny_runner


def test_a_frozen_tensor_that_changes_stops_the_run(tmp_path):
    """fails when frozen tensors are not checked after step 1"""

    class Leaky(TinyModel):
        def forward(self, batch):
            self.language.weight.data[0, 0] += 1e-3
            return super().forward(batch)

    with pytest.raises(TrainingError, match=r"frozen tensors changed in the first step: language\.weight"):
        tiny_runner(tmp_path, model=Leaky()).train()


def test_a_trainable_tensor_that_does_not_change_stops_the_run():
    """fails when a parameter with a gradient may be missing in the optimizer"""
    model = nn.Linear(2, 2)
    check = FrozenCheck(model, trainable(model))
    model.weight.grad = torch.ones(2, 2)
    model.bias.data += 1
    with pytest.raises(TrainingError, match="did not change: weight"):
        check.check({"weight": 1e-3}, eps=1e-8)
    assert check.check({"weight": 0.0}, eps=1e-8) == ["weight"]


def test_exactly_the_trainable_tensors_change(tmp_path):
    """fails when a step does not change a trainable tensor or changes a frozen one"""
    runner = tiny_runner(tmp_path, stop_at=1)
    check = FrozenCheck(runner.model, runner.parallel.parameters)
    runner.train()
    assert check.changed() == {
        f"{part}.{kind}" for part in ("bridges.image", "bridges.audio", "output") for kind in ("weight", "bias")
    }
