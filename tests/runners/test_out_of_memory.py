"""A failed allocation is answered with the step, the longest sample, the part that grew and settings that would fit."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from chatbridge.common.dist import Dist
from chatbridge.common.errors import TrainingError
from chatbridge.config.schema import parse
from chatbridge.experiment.memory_advice import advice_of, memory_advice
from chatbridge.experiment.roots import Experiment
from chatbridge.runners.memory_use import GIB, MemoryUse, memory_use
from chatbridge.runners.out_of_memory import OutOfMemory, is_out_of_memory, missing_bytes
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_parts import TinyModel
from tests.helpers.tiny_run import resumed, tiny_runner
from tests.helpers.train_runs import environment, losses

CPU = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000 bytes."
CUDA = (
    "CUDA out of memory. Tried to allocate 3.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.2 GiB is free."
)


class Heavy(TinyModel):
    """Fails in the forward pass of a step."""

    def __init__(self, error: Exception, at: int) -> None:
        super().__init__(dropout=0.3)
        self.error, self.at, self.calls = error, at, 0

    def forward(self, batch: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return super().forward(batch)


def failing(folder: Path, error: Exception, at: int = 22) -> Any:
    """A runner whose 22nd micro-batch, in step 6 of 8, fails; its checkpoints are those of steps 4 and 8."""
    runner = tiny_runner(folder, model=Heavy(error, at))
    runner.watchers.watchers = (
        OutOfMemory(runner.model, runner.optimizer, Dist(), lambda use: [f"half, {use.missing} bytes are missing"]),
    )
    return runner


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(CUDA), RuntimeError(CPU)], ids=["CUDA", "CPU"])
def test_the_answer_names_step_sample_part_and_settings(tmp_path: Path, error: Exception) -> None:
    """Fails when a part of the answer is missing, a checkpoint of the failed step is written, or the run cannot go on
    from the checkpoint before it with the losses of an uninterrupted run."""
    with pytest.raises(TrainingError) as caught:
        failing(tmp_path / "run", error).train()
    text = str(caught.value)
    assert text.startswith("step 6: out of memory in forward on rank 0 (cpu")
    assert "longest: None-85-0 of text, 6 tokens; longest in earlier steps: 6" in text
    assert "micro-batch 4: 2 x 6 positions" in text and "image 2x4" in text
    assert "memory: weights " in text and "optimizer " in text and "in forward grew: activations and logits" in text
    assert f"1. half, {missing_bytes(str(error))} bytes are missing" in text
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step_000004"]
    again = resumed(tiny_runner(tmp_path / "run"))
    assert again.state.step == 4 and again.train() == 0
    assert tiny_runner(tmp_path / "whole").train() == 0
    assert losses(tmp_path / "run")[-4:] == losses(tmp_path / "whole")[-4:]


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    """Fails when an error of the model is called a lack of memory."""
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        failing(tmp_path, RuntimeError("mat1 and mat2 shapes cannot be multiplied")).train()
    assert not isinstance(caught.value, TrainingError)
    assert not is_out_of_memory(ValueError("out of memory"))  # of a library's own, with another meaning
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"))


def test_sizes_in_messages() -> None:
    """Fails when the unit of the message is ignored."""
    assert missing_bytes(CUDA) == int(3.5 * GIB) and missing_bytes(CPU) == 4_000_000 and missing_bytes("none") == 0


def test_memory_is_divided_by_part() -> None:
    """Fails when a shared tensor counts twice, or the moments of the optimizer are taken for activations."""
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False))
    model[1].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 100)).sum().backward()
    optimizer.step()
    use = memory_use(model, optimizer, torch.device("cpu"), 1_000_000, 500)
    assert (use.weights, use.gradients) == (40_000, 40_000) and 80_000 <= use.optimizer < 80_100
    assert use.rest == 1_000_000 - use.fixed and use.needed == 1_000_500 and use.capacity > GIB


def experiment(world: MiniWorld, run: dict[str, Any], **data: Any) -> Experiment:
    config = world.experiment(world.folder / "run", **run)
    config["data"] |= data
    return parse(Experiment, config)


def test_advice_fits_and_keeps_results_first(tmp_path: Path) -> None:
    """Fails when a setting is advised that is in effect already, changes the data needlessly, or would not fit."""
    use = MemoryUse(10 * GIB, GIB, 2 * GIB, 60 * GIB, 10 * GIB, 80 * GIB)
    world = MiniWorld(tmp_path)
    first, second, third = memory_advice(experiment(world, {"micro_batch": 6, "accumulate": 2}), 1, use)
    assert first.startswith("run.micro_batch=3 run.accumulate=4: ") and "about 48.0 GiB" in first
    assert second.startswith("run.activation_checkpointing=[bridges.perceiver, language]: ")
    assert third.startswith("data.max_tokens=100: ")
    tight = MemoryUse(70 * GIB, GIB, 8 * GIB, 2 * GIB, GIB, 80 * GIB)
    config = experiment(world, {"micro_batch": 1, "activation_checkpointing": ["*"]})
    texts = memory_advice(config, 4, tight)
    assert texts[0].startswith("run.parallel=shard: ") and "with another of these" not in texts[0]
    assert all("micro_batch" not in text and "activation_checkpointing" not in text for text in texts)
    packed = experiment(world, {"micro_batch": 4}, batching="packed", token_budget=512)
    assert any(text.startswith("data.token_budget=256: ") for text in memory_advice(packed, 1, use))


def test_advice_divides_the_batch_that_a_source_sets(tmp_path: Path) -> None:
    """Fails when run.micro_batch is advised, which changes no step of a source with its own batch, or a batch would not
    divide into micro-batches and ranks."""
    use = MemoryUse(10 * GIB, GIB, 2 * GIB, 60 * GIB, 10 * GIB, 80 * GIB)
    config = MiniWorld(tmp_path).experiment(tmp_path / "run", micro_batch=4, accumulate=2)
    config["data"]["mix"] = "step"
    for source in config["data"]["sources"].values():
        source["batch"] = 24
    assert memory_advice(parse(Experiment, config), 2, use)[0].startswith("run.accumulate=4: the same batch")
    next(iter(config["data"]["sources"].values())).pop("batch")
    assert memory_advice(parse(Experiment, config), 2, use)[0].startswith("run.micro_batch=2 run.accumulate=4: ")
    for source in config["data"]["sources"].values():
        source["batch"] = 4
    assert not any("accumulate" in text for text in memory_advice(parse(Experiment, config), 2, use))


LIMITED = """
import json, resource, sys
from tests.helpers.tiny_run import tiny_runner
from tests.runners.test_out_of_memory import failing
import torch
from pathlib import Path
from chatbridge.common.errors import run_command

def main():
    runner = failing(Path(sys.argv[1]), None, at=0)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
    forward = runner.model.forward
    def heavy(batch):
        kept = [torch.ones(2**26) for _ in range(8 if runner.state.step == 5 else 0)]  # 2 GiB
        return forward(batch)
    runner.model.forward = heavy
    return runner.train()

run_command(main)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
def test_a_real_failed_allocation_ends_with_the_answer(tmp_path: Path) -> None:
    """Fails when the answer needs the memory that is missing, or the exit code calls the run a success."""
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], env=environment(), capture_output=True,
                          text=True, timeout=120)  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "chatbridge: step 6: out of memory in forward on rank 0" in done.stderr
    assert "Traceback" not in done.stderr and "in forward grew: activations and logits" in done.stderr
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000004"]


TIGHT = MemoryUse(10 * 2**20, 2**20, 2 * 2**20, 30 * 2**20, 0, 32 * 2**20)


@pytest.mark.slow
def test_the_answer_has_the_settings_that_a_plan_finds(tmp_path: Path) -> None:
    """Fails when the search does not find settings for the device, or they are not taken."""
    world = MiniWorld(tmp_path)
    settings = world.experiment(tmp_path / "run", micro_batch=64, precision="fp32")
    path = write_yaml(tmp_path / "train.yaml", settings)
    found = advice_of(path, ["run.accumulate=1"], parse(Experiment, settings), Dist())(TIGHT)
    assert found and all(text.endswith("by its plan") for text in found)
    assert any(text.startswith("run.micro_batch=") and "run.accumulate=" in text for text in found)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_a_search_is_ended_and_sees_neither_gpu_nor_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a search that fails or takes long holds up a run or raises, what it found is lost, estimated settings
    do not stand in, or the process could allocate on the full GPU or join the run's ranks."""
    config = parse(Experiment, MiniWorld(tmp_path).experiment(tmp_path / "run", stall_timeout_s=6))
    process = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(process))
    monkeypatch.setenv("RANK", "1")

    def advice(script: str) -> list[str]:
        process.write_text(f"#!/bin/sh\n{script}\n")
        process.chmod(0o755)
        return advice_of(tmp_path / "train.yaml", [], config, Dist())(TIGHT)

    before = time.monotonic()
    assert advice('echo "note"; echo "fits: a=$CUDA_VISIBLE_DEVICES$RANK"; exec sleep 60') == ["a="]
    assert 1.4 < time.monotonic() - before < 30
    estimated = memory_advice(config, 1, TIGHT)
    for script in ("exec sleep 60", "echo why >&2; exit 2", "exit 0", "kill -9 $$"):
        assert advice(script) == estimated, script
    process.unlink()
    assert advice_of(tmp_path / "train.yaml", [], config, Dist())(TIGHT) == estimated
