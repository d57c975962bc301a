"""The log line, the metrics and the curves of a training run."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from chatbridge.common.dist import Dist
from chatbridge.common.types import LossSum
from chatbridge.runners.progress import Progress, StepResult, clock, line, short
from chatbridge.runners.window import Window
from tests.helpers.tiny_parts import TinyLoader


def result(step: int, loss: float, supervised: int) -> StepResult:
    total = torch.tensor(loss * supervised)
    losses = [LossSum(total, supervised, {"image": (total, supervised)})]
    return StepResult(step, loss, 0.5, 1e-3, supervised, TinyLoader().batches(0)[:1], losses)


def test_the_loss_of_a_line_is_weighted_by_tokens(tmp_path):
    """fails when the loss of a window is a mean of means, or the last step has no line"""
    progress = Progress(tmp_path, last_step=3, log_every=2, dist=Dist())
    with progress.open(0):
        for step, (loss, supervised) in enumerate([(1.0, 10), (4.0, 30), (2.0, 5)], start=1):
            progress.update(result(step, loss, supervised))
    first, last = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (first["step"], last["step"]) == (2, 3)
    assert first["loss"] == pytest.approx((10 + 120) / 40)
    assert first["per_source"] == {"image": pytest.approx((10 + 120) / 40)}
    assert last["loss"] == pytest.approx(2.0) and last["supervised"] == 5


def test_waiting_for_data_is_measured(tmp_path, monkeypatch):
    """fails when the time of the steps themselves counts as waiting"""
    now = [0.0]  # a fake clock: on a busy machine a sleep may last longer
    monkeypatch.setattr("chatbridge.runners.progress.time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow():
        for _ in range(3):
            now[0] += 2
            yield 0

    progress = Progress(tmp_path, last_step=3, log_every=1, dist=Dist())
    for _ in progress.waiting(slow()):
        now[0] += 5
    assert progress.window.wait_s == 6


def test_curves_of_a_resumed_run_have_one_value_per_step(tmp_path):
    """fails when values after the checkpoint of the stopped run stay in the curves along with the new ones"""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, losses in ((0, (5.0, 4.0, 9.0)), (2, (3.0, 2.0))):  # resumed after step 2: step 3 is written again
        progress = Progress(tmp_path, last_step=4, log_every=1, dist=Dist())
        with progress.open(start):
            for step, loss in enumerate(losses, start=start + 1):
                progress.update(result(step, loss, 10))
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(point.step, point.value) for point in curves.Scalars("loss")] == [(1, 5), (2, 4), (3, 3), (4, 2)]


def test_a_line_covers_all_ranks(tmp_path):
    """fails when sources of another rank are missing from the line"""

    class Two(Dist):
        def gather(self, value):
            return [value, Window(loss={"audio": 6.0}, count={"audio": 3}, tokens=100, cut=2, failures=1)]

    progress = Progress(tmp_path, last_step=1, log_every=1, dist=Two(world_size=2))
    with progress.open(0):
        progress.update(result(1, 1.0, 10))
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert record["per_source"] == {"audio": 2.0, "image": pytest.approx(1.0)}
    assert (record["cut"], record["failures"]) == (2, 1)
    assert "2 cut  1 failure" in line(record, 1)


def test_the_figures_of_a_line_are_of_all_ranks(tmp_path, monkeypatch):
    """fails when a rate counts one rank, or time for checkpoints, when padding is not a share of all positions, or
    when the wait and the memory of ranks are added instead of compared"""
    now = [0.0]
    monkeypatch.setattr("chatbridge.runners.progress.time", SimpleNamespace(monotonic=lambda: now[0]))

    class Two(Dist):
        def gather(self, value):
            other = Window(samples=6, tokens=88, positions=100, wait_s=4.0, memory_bytes=1, flops=30.0)
            return [value, other]

    progress = Progress(tmp_path, 2, log_every=2, dist=Two(world_size=2), flops=lambda batch: 10.0, peak_flops=5.0)

    def steps():
        for _ in range(2):
            now[0] += 1  # waiting for data
            yield

    with progress.open(0):
        for step, _ in enumerate(progress.waiting(steps()), start=1):
            now[0] += 4
            progress.update(result(step, 1.0, 10))  # 2 conversations of 6 positions without padding
            now[0] += 100  # a checkpoint
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (record["samples"], record["tokens"], record["seconds"]) == (2 * 2 + 6, 2 * 12 + 88, 110)
    assert (record["samples_per_s"], record["tokens_per_s"]) == (1.0, 11.2)
    assert record["padding_share"] == pytest.approx(12 / 124)
    assert record["wait_share"] == pytest.approx(4 / 10)
    assert record["mfu"] == pytest.approx((2 * 10 + 30) / 10 / (5 * 2))
    assert record["memory_bytes"] > 1e6
    assert "1 samples/s  mfu 50.0%  padding 10%  data 40%" in line(record, 2)


def test_without_a_known_peak_there_is_no_mfu(tmp_path):
    """fails when a wrong MFU is shown where the peak of the device is not known"""
    progress = Progress(tmp_path, 1, log_every=1, dist=Dist(), flops=lambda batch: 10.0)
    with progress.open(0):
        progress.update(result(1, 1.0, 10))
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert "mfu" not in record and "mfu" not in line(record, 1)


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for a device: tensors read as numbers."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_is_not_read_from_the_device_until_its_line(tmp_path):
    """fails when the losses of the sources are read in every step, so that the host waits for the device"""
    progress = Progress(tmp_path, last_step=9, log_every=3, dist=Dist())
    with progress.open(0), Reads() as reads:
        given = [replace(result(step, 1.0, 10), batches=[]) for step in (1, 2)]  # the lengths of a batch are on the CPU
        for one in given:
            progress.update(one)
    assert reads.count == 0
    assert isinstance(progress.window.loss["image"], torch.Tensor)
    assert progress.window.read().per_source() == {"image": 1.0}


def test_numbers_and_times_are_shortened():
    """fails when a shortened number or time is wrong by a factor"""
    assert (short(0.25), short(1.0)) == ("0.2", "1")
    assert (short(999), short(12_345), short(1_234_567)) == ("999", "12.3k", "1.2M")
    assert (clock(59.6), clock(3725)) == ("0:01:00", "1:02:05")
