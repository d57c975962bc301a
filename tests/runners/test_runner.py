"""The training loop: two processes equal one, a resumed run equals an uninterrupted one, frozen tensors stay."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from chatbridge.common.types import Batch
from chatbridge.models.component_tensors import describe_components
from chatbridge.models.loading import read_state
from tests.helpers.preloaded_processes import run_ranks
from tests.helpers.tiny_parts import STREAMS, TinyLoader, TinyModel, batch_of, rows
from tests.helpers.tiny_run import resumed, tiny_runner
from tests.helpers.tolerances import FP32

LAST = "checkpoints/step_000008/model.safetensors"


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the results of ranks_runner.py."""
    folder = tmp_path_factory.mktemp("ranks")
    done = run_ranks([str(Path(__file__).parents[1] / "helpers" / "ranks_runner.py"), str(folder)])
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return folder


def test_two_processes_equal_one(two_ranks, tmp_path):
    """fails when the loss is a mean of means, dropout depends on the rank, or the weights of ranks differ"""
    assert tiny_runner(tmp_path / "one").train() == 0
    one, two = losses(tmp_path / "one"), losses(two_ranks / "train")
    assert len(one) == len(two) == 8
    assert one == pytest.approx(two, rel=FP32)
    one_state, two_state = (read_state(folder / LAST) for folder in (tmp_path / "one", two_ranks / "train"))
    for name, value in one_state.items():
        torch.testing.assert_close(value, two_state[name], rtol=FP32, atol=FP32 * 0.05)  # lr 0.05: a step's size


def test_two_processes_equal_one_with_streams(two_ranks, tmp_path):
    """fails when a stream's tokens are not counted over all ranks, or its dropout depends on the rank"""
    assert tiny_runner(tmp_path / "one", streams=STREAMS).train() == 0
    one, two = losses(tmp_path / "one"), losses(two_ranks / "joint")
    assert len(one) == len(two) == 8 and one == pytest.approx(two, rel=1e-6)
    one_state, two_state = (read_state(folder / LAST) for folder in (tmp_path / "one", two_ranks / "joint"))
    for name, value in one_state.items():
        torch.testing.assert_close(value, two_state[name], rtol=1e-6, atol=1e-6)


def test_a_run_with_streams_resumes_bit_for_bit(tmp_path):
    """fails when a stream's dropout or order depends on the steps of this process"""
    through = tiny_runner(tmp_path / "through", streams=STREAMS)
    through.train()
    tiny_runner(tmp_path / "stopped", streams=STREAMS, stop_at=3).train()
    second = resumed(tiny_runner(tmp_path / "stopped", streams=STREAMS))
    second.train()
    assert losses(tmp_path / "through") == losses(tmp_path / "stopped")
    for name, parameter in through.parallel.parameters.items():
        assert torch.equal(parameter, second.parallel.parameters[name]), name


def test_both_ranks_resume_from_the_newest_undamaged_checkpoint(two_ranks):
    """fails when a rank resumes from a damaged checkpoint, or ranks resume from different ones"""
    for rank in range(2):
        result = json.loads((two_ranks / "damaged" / f"rank{rank}.json").read_text())
        assert (result["newest"], result["taken"], result["started"]) == ("step_000008", "step_000004", 4)
        assert "is truncated" in result["notes"][0] and result["is_equal"]


def test_sharding_does_not_change_the_fingerprint_of_a_part(two_ranks):
    """fails when a fingerprint is of one rank's shard, or ranks do not join in computing it"""
    manifest = json.loads((two_ranks / "sharded/checkpoints/step_000000/manifest.json").read_text())
    assert manifest["components"] == describe_components(TinyModel())


def test_all_ranks_stop_before_a_step_that_is_not_finite(two_ranks):
    """fails when another rank takes the step, or the conversations of the step are not written"""
    record = json.loads((two_ranks / "not_finite" / "not_finite_000002.json").read_text())
    healthy, sick = record["ranks"]
    assert [micro["is_bad"] for micro in healthy] == [False, False]
    assert any(micro["is_bad"] for micro in sick)
    assert all(micro["ids"] and micro["sources"] for micro in healthy + sick)


def test_all_ranks_stop_after_the_same_step(two_ranks):
    """fails when only the rank that received the signal stops, or a step is lost"""
    ends = [json.loads((two_ranks / "stop" / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ends[0]["step"] == ends[1]["step"] == 3
    assert ends[1]["code"] == 130
    assert (two_ranks / "stop" / "checkpoints" / "step_000003" / "manifest.json").is_file()


def test_resume_is_bit_for_bit(tmp_path):
    """fails when anything a later step depends on is not restored: weights, moments, step, dropout, learning rate"""
    through = tiny_runner(tmp_path / "through")
    through.train()
    latest = through.checkpointer.latest()
    assert latest is not None and latest.name == "step_000008", "the newer of two checkpoints"
    tiny_runner(tmp_path / "stopped", stop_at=3).train()
    second = resumed(tiny_runner(tmp_path / "stopped", model=TinyModel(dropout=0.3)))
    assert second.state.step == 3
    torch.rand(11)  # the state of the global generator must not matter
    second.train()
    assert losses(tmp_path / "through") == losses(tmp_path / "stopped")
    for name, parameter in through.parallel.parameters.items():
        assert torch.equal(parameter, second.parallel.parameters[name]), name
    assert second.state == through.state


def test_the_same_seed_gives_the_same_losses(tmp_path):
    """fails when something draws from an unnamed stream; and when the seed has no effect at all"""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(len(name) + seed)
        tiny_runner(tmp_path / name, seed=seed).train()
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")


def test_ctrl_c_finishes_the_step_saves_and_stops(tmp_path):
    """fails when a signal loses the step, no checkpoint is written, or the signal handlers stay"""

    class Interrupted(TinyLoader):
        def __call__(self, start: int, stop: int) -> Iterator[list[Batch]]:
            for step in range(start, stop):
                if step == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                    os.kill(os.getpid(), signal.SIGINT)  # torchrun repeats it at once
                yield self.batches(step)

    before = signal.getsignal(signal.SIGINT)
    runner = tiny_runner(tmp_path, loader=Interrupted(accumulate=4))
    assert runner.train() == 143
    assert runner.state.step == 2
    assert (tmp_path / "checkpoints/step_000002/manifest.json").is_file()
    assert signal.getsignal(signal.SIGINT) == before


def test_the_command_that_resumes_after_a_stop_is_logged(tmp_path, caplog):
    """fails when the command of a run that resumed from a path would resume from that path again"""

    class Interrupted(TinyLoader):
        def __call__(self, start: int, stop: int) -> Iterator[list[Batch]]:
            os.kill(os.getpid(), signal.SIGTERM)
            yield self.batches(start)

    for name, run, logged in (
        ("auto", {}, "the same command resumes"),
        ("path", {"resume": tmp_path}, "without run.resume"),
    ):
        caplog.clear()
        with caplog.at_level("INFO", logger="chatbridge"):
            tiny_runner(tmp_path / name, loader=Interrupted(accumulate=4), **run).train()
        assert logged in caplog.text


def test_a_text_only_loss_may_have_no_gradient(tmp_path):
    """fails when a micro-batch whose loss requires no gradient ends the run"""
    model = TinyModel()
    model.output.requires_grad_(False)
    runner = tiny_runner(tmp_path, model=model)
    result = runner.train_step(0, [batch_of(rows(0, 2, None)), batch_of(rows(1, 2, "image"))])
    assert result.loss > 0 and result.grad_norm > 0


def test_step_k_uses_the_learning_rate_of_step_k(tmp_path):
    """fails when the schedule is off by one step, or the written rate is not the one that the optimizer used"""
    runner = tiny_runner(tmp_path, max_steps=4)
    used = []
    runner.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    runner.train()
    assert used == [runner.schedule(step) for step in range(4)] and len(set(used)) == 4
    assert [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == used


def test_samples_count_over_all_ranks(two_ranks, tmp_path):
    """fails when a run of several ranks counts the conversations of one"""
    states = [
        json.loads((folder / "state.json").read_text())
        for folder in (two_ranks / "train" / LAST).parent.parent.glob("step_*")
    ]
    assert states and all(state["samples"] == 8 * state["step"] for state in states)


def test_metrics_have_the_loss_per_source(tmp_path):
    """fails when per-source losses do not add up to the loss of the step"""
    runner = tiny_runner(tmp_path, stop_at=2, log_every=2)
    runner.train()
    (record,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    batches = [batch for step in (0, 1) for batch in TinyLoader(accumulate=4).batches(step)]
    counts = dict.fromkeys(("image", "audio", "text"), 0)
    for batch in batches:
        counts[batch.sources[0]] += batch.num_supervised
    assert record["step"] == 2 and record["supervised"] == sum(counts.values())
    mean = sum(record["per_source"][name] * count for name, count in counts.items()) / sum(counts.values())
    assert record["loss"] == pytest.approx(mean, rel=FP32)
    assert list((tmp_path / "tensorboard").glob("events*"))
