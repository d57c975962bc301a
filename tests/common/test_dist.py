import json
from pathlib import Path

import pytest
import torch

from chatbridge.common import dist
from chatbridge.common.errors import ConfigError


def test_without_torchrun_we_are_a_world_of_one():
    """fails when a plain `python train.py` needs torchrun's environment or a process group"""
    one = dist.start("cpu")
    assert (one.rank, one.world_size, one.is_main, one.device) == (0, 1, True, torch.device("cpu"))
    assert one.sum(3) == 3
    assert one.sum(0.5) == 0.5
    tensor = torch.ones(2)
    assert one.sum(tensor) is not tensor
    assert one.all_true(True)
    assert not one.all_true(False)
    assert one.gather("x") == ["x"]
    one.barrier()
    dist.stop()
    assert not torch.distributed.is_initialized()


def test_two_ranks_add_up(ranks):
    """fails when ranks lose bits of an integer, change the tensor they sum, disagree on a flag, all speak at once, or
    leave threads of the group behind, which can abort a process at its exit"""
    done = ranks(Path(__file__).parents[1] / "helpers" / "ranks_dist.py")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    found = json.loads(line.removeprefix("FOUND "))
    assert found == {
        "world_size": 2,
        "integers": 2**61 + 1,
        "floats": 0.1 + 1.1,
        "total": [2.0, 1.0],
        "kept": [1.0, 0.0],
        "in_place": [2.0, 1.0],
        "all": True,
        "not_all": False,
        "gathered": [{"rank": 0}, {"rank": 1}],
        "threads_of_the_group": 0,
    }
    assert done.stderr.count("said by the main rank") == 1
    assert done.stderr.count("said by all") == 2
    assert "[rank 1] warning: said by all" in done.stderr


@pytest.mark.parametrize(("found", "hint"), [(0, "set run.device to cpu or auto"), (2, "start 2 processes")])
def test_a_missing_gpu_is_a_problem_of_the_configuration(monkeypatch, found: int, hint: str):
    """fails when run.device: cuda without a GPU, or with more ranks than GPUs, ends in CUDA's own traceback"""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError) as caught:
        dist.start("cuda")
    (problem,) = caught.value.problems
    assert problem.path == "run.device"
    assert hint in (problem.hint or "")


def test_auto_takes_the_cpu_where_there_is_nothing_else(monkeypatch):
    """fails when `auto` needs a GPU"""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert dist.start("auto").device.type == "cpu"
