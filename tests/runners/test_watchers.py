"""Watchers are told of every phase and step, and change nothing."""

from __future__ import annotations

import pytest
import torch

from chatbridge.models.loading import read_state
from chatbridge.runners.watchers import Watcher, Watchers
from tests.helpers.tiny_run import tiny_runner


class Recorder(Watcher):
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.steps: list[int] = []
        self.closed = 0

    def phase(self, name, step):
        self.seen.append((name, step))

    def step(self, result):
        self.steps.append(result.step)

    def __exit__(self, *problem):
        self.closed += 1


def test_phases_and_steps_in_order(tmp_path):
    """fails when a phase is not announced, or a watcher changes the run"""
    recorder, watched, plain = Recorder(), tiny_runner(tmp_path / "a"), tiny_runner(tmp_path / "b")
    watched.watchers = Watchers([recorder])
    assert watched.train() == plain.train() == 0
    assert recorder.steps == list(range(1, 9)) and recorder.closed == 1
    third = [name for name, step in recorder.seen if step == 2]
    assert third == ["data", "collective", *["forward", "backward"] * 4, "collective", "optimizer"]
    assert [step for name, step in recorder.seen if name == "checkpoint"] == [4, 8]
    one, two = (read_state(tmp_path / name / "checkpoints/step_000008/model.safetensors") for name in "ab")
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_a_watcher_is_closed_when_the_run_fails(tmp_path):
    """fails when an error of the loader leaves a watcher open"""

    def broken(start, stop):
        yield from runner_loader(start, start + 1)
        raise RuntimeError("loader")

    recorder, runner = Recorder(), tiny_runner(tmp_path)
    runner_loader, runner.watchers = runner.loader, Watchers([recorder])
    runner.loader = broken
    with pytest.raises(RuntimeError, match="loader"):
        runner.train()
    assert recorder.closed == 1 and recorder.steps == [1]
