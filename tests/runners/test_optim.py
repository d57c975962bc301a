"""Learning rates as functions of the step, and AdamW state by parameter name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from chatbridge.runners.optim import (
    OptimizerConfig,
    Schedule,
    ScheduleConfig,
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
)


def schedule(max_steps: int = 100, lr: float = 1e-3, **config) -> Schedule:
    return Schedule(ScheduleConfig(**config), lr, max_steps)


def test_cosine_has_no_jump_and_ends_at_the_minimum():
    """fails when the warm-up is off by one step, or the cosine does not start at the peak or end at min_lr"""
    lr = schedule(kind="cosine", warmup_steps=10, warmup_lr=1e-4, min_lr=1e-5)
    assert lr(0) == 1e-4
    assert lr(5) == pytest.approx(5.5e-4)
    assert lr(10) == 1e-3
    assert lr(55) == pytest.approx((1e-3 + 1e-5) / 2)
    assert lr(100) == pytest.approx(1e-5)
    rates = [lr(step) for step in range(101)]
    assert max(abs(a - b) for a, b in zip(rates, rates[1:])) < 1e-4


def test_constant_stays_after_the_warmup():
    """fails when `constant` decays"""
    lr = schedule(kind="constant", warmup_steps=2, warmup_lr=0.0)
    assert [lr(0), lr(1), lr(2), lr(99)] == [0.0, 5e-4, 1e-3, 1e-3]


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_schedules_of_multimodal_gpt_are_those_of_transformers(kind):
    """fails when a warm-up from 0, or what follows it, differs from the schedule that the published runs use"""
    transformers = pytest.importorskip("transformers")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    steps = {} if kind == "constant" else {"num_training_steps": 20}
    name = f"get_{kind}_schedule_with_warmup"
    wanted = getattr(transformers, name)(optimizer, num_warmup_steps=4, **steps)
    ours = Schedule(ScheduleConfig(kind=kind, warmup_steps=4, warmup_lr=0.0), 0.1, 20)
    for step in range(20):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-15), step
        optimizer.step()
        wanted.step()


def test_optimizer_state_is_by_name_and_continues_bit_for_bit():
    """fails when moments are matched by position, or any part of AdamW's state is lost"""
    config = OptimizerConfig(lr=0.1, weight_decay=0.01)

    def parameters() -> dict[str, nn.Parameter]:
        return {name: nn.Parameter(torch.arange(3.0) + offset) for name, offset in (("a", 1), ("b", 2))}

    def steps(own: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, which: range) -> None:
        for step in which:
            for offset, name in enumerate(("a", "b")):
                own[name].grad = torch.full((3,), float(step + 1 + 5 * offset))
            optimizer.step()

    through = parameters()
    optimizer = build_optimizer(through, config)
    steps(through, optimizer, range(4))

    before = parameters()
    first = build_optimizer(before, config)
    steps(before, first, range(2))
    after = {name: nn.Parameter(before[name].detach().clone()) for name in ("b", "a")}  # another order
    second = build_optimizer(after, config)
    load_optimizer_state(second, after, optimizer_state(first, before))
    steps(after, second, range(2, 4))
    for name in ("a", "b"):
        assert torch.equal(through[name], after[name])


def test_optimizer_state_of_other_parameters_is_refused():
    """fails when a state of other trainable tensors is loaded silently"""
    one = {"a": nn.Parameter(torch.zeros(2))}
    optimizer = build_optimizer(one, OptimizerConfig())
    one["a"].grad = torch.ones(2)
    optimizer.step()
    state = optimizer_state(optimizer, one)
    other = {"b": nn.Parameter(torch.zeros(2))}
    with pytest.raises(ValueError, match="are not trainable now: a"):
        load_optimizer_state(build_optimizer(other, OptimizerConfig()), other, state)
    both = {"a": nn.Parameter(torch.zeros(2)), **other}
    with pytest.raises(ValueError, match="lacks parameters that are trainable now: b"):
        load_optimizer_state(build_optimizer(both, OptimizerConfig()), both, state)


def test_no_trainable_parameter_is_an_error():
    """fails when an optimizer is built without trainable parameters"""
    with pytest.raises(ValueError, match="no parameter is trainable; set model.trainable"):
        build_optimizer({}, OptimizerConfig())
