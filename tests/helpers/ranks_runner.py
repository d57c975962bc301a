"""Two ranks through the real runner. Run by tests/runners/test_runner.py: ranks_runner.py CASE FOLDER."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from chatbridge.common import dist as ranks
from chatbridge.common.errors import TrainingError
from chatbridge.common.types import Batch
from chatbridge.models.fingerprints import is_sharded
from chatbridge.runners.resume import resume_point
from chatbridge.runners.run_folder import open_run_folder, plan_start
from tests.helpers.tiny_parts import STREAMS, TinyLoader, TinyModel
from tests.helpers.tiny_run import tiny_runner


def train(folder: Path, dist: ranks.Dist) -> None:
    """Dropout on, four slices of mixed media per step: ranks compare their weights at the end."""
    runner = tiny_runner(folder, dist)
    assert runner.train() == 0
    own = torch.cat([p.detach().flatten() for p in runner.parallel.parameters.values()]).tolist()
    everyone = dist.gather(own)
    assert everyone[0] == everyone[1], "the weights of ranks differ"


def joint(folder: Path, dist: ranks.Dist) -> None:
    """Two streams in every step, with dropout."""
    assert tiny_runner(folder, dist, streams=STREAMS).train() == 0


def not_finite(folder: Path, dist: ranks.Dist) -> None:
    """A media item of rank 1 is nan in step 2: both ranks stop with the weights of step 1."""

    class Poisoned(TinyLoader):
        def batches(self, step: int) -> list[Batch]:
            found = super().batches(step)
            if step == 1 and dist.rank == 1:
                for batch in found:
                    batch.media = {name: media * float("nan") for name, media in batch.media.items()}
            return found

    loader = Poisoned(dist.rank, dist.world_size, accumulate=2)
    runner = tiny_runner(folder, dist, loader=loader, stop_at=1)
    runner.train()
    before = {name: p.detach().clone() for name, p in runner.parallel.parameters.items()}
    expected = "the loss of rank 1 is not finite" if dist.is_main else "stopped together with rank 0"
    with pytest.raises(TrainingError, match=expected):
        runner.train_step(1, loader.batches(1))
    assert all(torch.equal(before[name], p) for name, p in runner.parallel.parameters.items())


def stop(folder: Path, dist: ranks.Dist) -> None:
    """Only rank 1 receives SIGINT, in its third step; both ranks finish that step, save and stop."""

    class Interrupted(TinyLoader):
        def __call__(self, start: int, stop: int) -> Iterator[list[Batch]]:
            for step in range(start, stop):
                if step == 2 and dist.rank == 1:
                    os.kill(os.getpid(), signal.SIGINT)
                yield self.batches(step)

    runner = tiny_runner(folder, dist, loader=Interrupted(dist.rank, dist.world_size, accumulate=2))
    code = runner.train()
    (folder / f"rank{dist.rank}.json").write_text(json.dumps({"code": code, "step": runner.state.step}))


def damaged(folder: Path, dist: ranks.Dist) -> None:
    """The newest checkpoint of a finished run is damaged: both ranks resume from the one before, with equal results."""
    runner = tiny_runner(folder, dist)
    runner.train()
    if dist.is_main:
        with (folder / "checkpoints/step_000008/model.safetensors").open("r+b") as file:
            file.truncate(100)
    dist.barrier()
    again = tiny_runner(folder, dist)
    newest = plan_start(again.config, {}, lambda then: {})
    point = resume_point(newest, again.config, dist)
    assert newest is not None and point is not None
    again.state = again.checkpointer.load(point.checkpoint)
    started = again.state.step
    if dist.is_main:
        open_run_folder(folder, {}, started)
    dist.barrier()
    again.train()
    pairs = zip(runner.parallel.parameters.values(), again.parallel.parameters.values(), strict=True)
    result = {"newest": newest.name, "taken": point.checkpoint.name, "started": started, "notes": point.notes,
            "is_equal": all(torch.equal(one, other) for one, other in pairs)}  # fmt: skip
    (folder / f"rank{dist.rank}.json").write_text(json.dumps(result))


def sharded(folder: Path, dist: ranks.Dist) -> None:
    """Frozen parts are sharded (FSDP2): a checkpoint is saved, and loads with sharded and with whole parts."""
    mesh = init_device_mesh("cpu", (dist.world_size,))
    model = TinyModel()
    for part in (model.language, model.encoders["vision"]):
        fully_shard(part, mesh=mesh)
    assert is_sharded(model.language.parameters()) and not is_sharded(model.bridges.parameters())
    runner = tiny_runner(folder, dist, model=model)
    checkpoint = runner.checkpointer.save(runner.state)
    for other in (model, TinyModel()):
        assert tiny_runner(folder, dist, model=other).checkpointer.load(checkpoint) == runner.state


def main() -> None:
    dist = ranks.start("cpu")
    for case in (train, joint, not_finite, stop, damaged, sharded):
        case(Path(sys.argv[1]) / case.__name__, dist)
    ranks.stop()


if __name__ == "__main__":
    main()
