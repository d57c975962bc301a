"""The private names of torch that are used, and loading without them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from chatbridge.datasets.failure_log import FailureLog
from chatbridge.datasets.workers import torch_workers
from chatbridge.datasets.workers.plain_workers import PlainWorkers
from chatbridge.datasets.workers.torch_workers import missing_attributes, missing_names, start_workers
from tests.helpers.unreliable_decoder import GOOD, contents, loader


class _Numbers(torch.utils.data.Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        if index == 5:
            raise KeyError("five")
        return index, torch.full((50_000,), float(index)), torch.get_num_threads()


def _loader(numbers: range, **options: Any) -> DataLoader[Any]:
    return DataLoader(_Numbers(), sampler=numbers, batch_size=None, num_workers=2, prefetch_factor=2, **options)


def test_the_installed_torch_has_the_private_names():
    """fails when a new torch renames what supervisor.py uses; adapt torch_workers.py or accept PlainWorkers"""
    assert missing_names() == []
    iterator = iter(_loader(range(2)))
    assert missing_attributes(iterator) == []
    iterator._shutdown_workers()


@pytest.mark.parametrize("names", ["FUNCTIONS", "METHODS", "ATTRIBUTES"])
def test_a_torch_without_one_of_the_names_is_reported(names: str, monkeypatch: pytest.MonkeyPatch, caplog):
    """fails when a missing private name ends the run, or slower loading is not explained"""
    monkeypatch.setattr(torch_workers, names, ("_renamed",))
    caplog.set_level(logging.WARNING, "chatbridge")
    pool = start_workers(_loader(range(4)))
    assert isinstance(pool, PlainWorkers) and "_renamed" in caplog.text and "slower" in caplog.text
    assert [item[0] for item in pool] == [0, 1, 2, 3]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_workers, "FUNCTIONS", ("_renamed",))


def test_items_without_torch(plain: None):
    """fails when items are lost, out of order, changed, or made with several threads"""
    pool = start_workers(_loader(range(11, 24)))
    for expected, (index, filled, threads) in zip(range(11, 24), pool, strict=True):
        assert index == expected and torch.equal(filled, torch.full((50_000,), float(index))) and threads == 1


def test_an_error_in_a_worker_without_torch(plain: None):
    """fails when the error of a worker is replaced by another, or its traceback is lost"""
    pool = start_workers(_loader(range(4, 8)))
    next(pool)
    with pytest.raises(KeyError) as caught:
        next(pool)
    assert "in __getitem__" in caught.value.__notes__[0]
    assert next(pool)[0] == 6
    pool.shutdown()
    assert all(process.exitcode == 0 for process in pool.processes)


def test_a_crash_and_a_hang_without_torch(tmp_path: Path, plain: None):
    """fails when without torch's private names a crash or a hang loses more than its sample"""
    names = [*GOOD[:5], "crash0", "freeze1"]
    failure_log = FailureLog(tmp_path / "failures.jsonl", {"web": 1.0})
    steps = list(loader(tmp_path, names, limit_s=1.0, failure_log=failure_log))
    reasons = {failure.id: failure.reason for (batch,) in steps for failure in batch.failures}
    assert reasons["crash0"] == "the decoder crashed with SIGSEGV" and "hung inside a decoder" in reasons["freeze1"]
    assert set(reasons) == {"crash0", "freeze1"}


def test_the_same_batches_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a run on a torch without the private names trains on different batches"""
    with_torch = contents(list(loader(tmp_path, GOOD)))
    monkeypatch.setattr(torch_workers, "FUNCTIONS", ("_renamed",))
    assert contents(list(loader(tmp_path, GOOD))) == with_torch
