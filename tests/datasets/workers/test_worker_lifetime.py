"""The start and the end of worker processes: kill -9 of a run, dying workers, Ctrl-C."""

from __future__ import annotations

import gc
import multiprocessing
import os
import select
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch.utils.data import DataLoader
from torch.utils.data._utils import worker

from chatbridge.datasets.workers import supervisor as supervision
from chatbridge.datasets.workers.progress_notes import ProgressNotes
from chatbridge.datasets.workers.supervisor import SupervisedWorkers, WorkersDied
from tests.helpers.unreliable_decoder import GOOD, loader


def _read_one_step(folder: Path, begun: Any) -> None:
    worker.MP_STATUS_CHECK_INTERVAL = 0.2  # seconds between a worker's checks that its run is alive
    steps = iter(loader(folder, GOOD, stop_step=100, after_id="x" * 100_000))  # ids longer than a pipe holds
    next(steps)
    time.sleep(0.5)  # the next ones wait to be read
    begun.set()
    time.sleep(300)


def test_workers_end_with_a_run_that_is_killed(tmp_path: Path):
    """fails when the workers of a run outlive its kill -9"""
    context = multiprocessing.get_context("fork")
    held, holding = os.pipe()  # closed with the last process that has it open
    begun = context.Event()
    run = context.Process(target=_read_one_step, args=(tmp_path, begun))
    run.start()
    os.close(holding)
    assert begun.wait(120)
    run.kill()
    run.join()
    assert select.select([held], [], [], 60)[0] and os.read(held, 1) == b""
    os.close(held)


class _Torn:
    """A pool of one worker that is dying: its connections are closed, its process is still alive."""

    def __init__(self):
        self.processes = [multiprocessing.get_context("fork").Process(target=self._die)]
        self.processes[0].start()

    def __iter__(self) -> _Torn:
        return self

    def __next__(self) -> None:
        raise ConnectionResetError

    def report_deaths(self, is_wanted: bool) -> None: ...

    def shutdown(self) -> None: ...

    @staticmethod
    def _die() -> None:
        time.sleep(0.3)
        os._exit(3)


def test_a_dying_worker_is_awaited(monkeypatch: pytest.MonkeyPatch):
    """fails when the broken connection of a crashing worker ends the run before its death is noticed"""
    monkeypatch.setattr(supervision, "start_workers", lambda loader: _Torn())
    workers = SupervisedWorkers(cast(Any, SimpleNamespace(num_workers=1)), ProgressNotes(1), 60.0)
    with pytest.raises(WorkersDied, match="exit code 3"):
        next(iter(workers))
    workers.close()


class _PressedWhenFreed:
    """Ctrl-C at the moment when a cycle of objects is collected."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_not_lost_while_workers_start():
    """fails when an interrupt is lost because it comes while garbage is collected, or leaves the notes behind"""
    notes = ProgressNotes(1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    gc.disable()
    try:
        _PressedWhenFreed()
        with pytest.raises(KeyboardInterrupt):
            SupervisedWorkers(DataLoader(cast(Any, range(3)), num_workers=1), notes, 60.0)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        gc.enable()
        signal.signal(signal.SIGINT, before)
    assert not notes.path.exists()


@pytest.mark.parametrize("frozen", [True, False])
def test_what_a_program_froze_stays_frozen(frozen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when starting workers thaws what the program froze, or leaves its own objects frozen"""
    calls: list[str] = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: int(frozen))  # thawing the heap of all tests takes seconds
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))
    monkeypatch.setattr(gc, "unfreeze", lambda: calls.append("unfreeze"))
    with loader(tmp_path, GOOD, num_workers=1, stop_step=1) as steps:
        list(steps)
    assert calls == (["freeze"] if frozen else ["freeze", "unfreeze"])
