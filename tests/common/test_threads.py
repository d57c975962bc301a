"""Threads: one in every worker, a setting in the process that computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from chatbridge.common import threads
from chatbridge.common.errors import ConfigError
from chatbridge.common.threads import VARIABLES, default_threads, use_threads
from chatbridge.config.schema import parse
from chatbridge.datasets.workers.supervisor import init_worker
from chatbridge.datasets.workers.torch_workers import start_workers
from chatbridge.runners.config import ComputeConfig


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    for name in (*VARIABLES, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "ranks", "workers", "expected"), [(2, 1, 0, 2), (2, 1, 2, 1), (64, 4, 2, 14), (8, 16, 0, 1)]
)
def test_the_default_leaves_cores_to_workers_and_other_ranks(
    cores: int, ranks: int, workers: int, expected: int, monkeypatch: pytest.MonkeyPatch
):
    """fails when ranks of one machine, or its loader workers, compete with threads for the same cores"""
    monkeypatch.setattr(threads, "num_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert default_threads(workers) == use_threads(None, workers) == expected


def test_the_setting_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch):
    """fails when run.threads is not used, or what a person or torchrun set in the environment is overwritten"""
    torch.set_num_threads(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert use_threads(None, num_workers=500) == 2
    assert use_threads(1) == torch.get_num_threads() == 1


def test_zero_threads_are_refused(tmp_path: Path):
    """fails when a number of threads that torch cannot take reaches it"""
    with pytest.raises(ConfigError, match="threads"):
        parse(ComputeConfig, {"output_dir": str(tmp_path), "threads": 0})


class _Threads(torch.utils.data.Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        a = torch.ones(600, 600)
        (a @ a).sum()
        return torch.get_num_threads(), [os.environ.get(name) for name in VARIABLES]


def test_a_loader_worker_has_one_thread():
    """fails when workers start threads of their own, which compete with each other and with the training"""
    torch.set_num_threads(2)
    loader = DataLoader(_Threads(), sampler=range(2), batch_size=None, num_workers=1, worker_init_fn=init_worker)
    assert [(number, names) for number, names in start_workers(loader)] == [(1, ["1", "1"])] * 2
    assert not os.environ.get(VARIABLES[0]), "the setting of a worker is none of the main process"
