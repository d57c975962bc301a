"""Decoders that crash, hang or are slow: the sample is named and replaced, everything else is unchanged."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import multiprocessing
import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils import worker

from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.types import Batch
from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS, Dataset
from chatbridge.datasets.failure_log import FailureLog
from chatbridge.datasets.loader import BatchLoader, build_loader
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.quarantine import Quarantine, read_quarantine
from chatbridge.datasets.workers import supervisor as supervision
from chatbridge.datasets.workers.progress_notes import ProgressNotes
from chatbridge.datasets.workers.supervisor import SupervisedWorkers, WorkersDied
from chatbridge.datasets.workers.time_limit import time_limit, timer_paused
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_processor import MediaProcessor
from tests.helpers.tiny_media import layout, write_json


class Decoder(MediaProcessor):
    """Pictures whose names say what happens: nothing, a crash, an exit, a hang in C, a hang in Python."""

    def __init__(self, limit_s: float = 60.0):
        self.limits = Limits(time_limit_s=limit_s)

    def __call__(self, ref: Any, rng: np.random.Generator | None = None) -> Tensor:
        name = Path(ref).stem
        if name.startswith("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if name.startswith("exit"):
            os._exit(3)
        if name.startswith("freeze"):
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # sleep would return, which other C does not
            ctypes.PyDLL(None).sleep(300)  # holds the GIL
        if name.startswith("slow"):
            time.sleep(60)
        if name.startswith("stubborn"):
            for _ in range(3):
                with suppress(Exception):  # as decoders do
                    time.sleep(60)
        return torch.full((2,), float(rng.random() if rng is not None else 0))


def source(folder: Path, names: list[str], after_id: str = "") -> Dataset:
    lines = [
        {
            "id": name + after_id,
            "messages": [
                {"role": "user", "content": [{"type": "image", "path": f"{name}.jpg"}]},
                {"role": "assistant", "content": f"this is {name}"},
            ],
        }
        for name in names
    ]
    part = BUILDERS.get("records")
    return part(parse(part.Config, {"file": str(write_json(folder / "r.jsonl", lines))}), "web")


def loader(folder: Path, names: list[str], limit_s: float = 60.0, after_id: str = "", **options: Any) -> BatchLoader:
    mixture = Mixture({"web": source(folder, names, after_id)}, {"web": 1.0}, 3, 4)
    given = {"stop_step": 6, "num_workers": 2, "seed": 5, **options}
    return build_loader(mixture, layout(), {"image": Decoder(limit_s)}, micro_batch=4, **given)


def contents(steps: list[list[Batch]]) -> list[tuple[Any, ...]]:
    return [(batch.sample_ids, batch.ids.tolist(), batch.media["image"].tolist()) for (batch,) in steps]


GOOD = [f"good{number}" for number in range(9)]


@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_crash_costs_its_sample_and_nothing_else(tmp_path: Path, start_method: str):
    """fails when a crash ends the run, loses or changes another step, or the failure log does not name the sample"""
    failure_log = FailureLog(tmp_path / "failures.jsonl", {"web": 1.0})
    options: dict[str, Any] = {"start_method": start_method}
    if start_method == "spawn":
        options |= {"num_workers": 1, "stop_step": 2}
    names = ["crash0", "good1", "good2"] if start_method == "spawn" else [*GOOD, "crash0", "exit1"]
    steps = list(loader(tmp_path, names, failure_log=failure_log, **options))
    failures = [failure for (batch,) in steps for failure in batch.failures]
    reasons = {failure.id: failure.reason for failure in failures}
    expected = {"crash0": "the decoder crashed with SIGSEGV", "exit1": "the decoder ended its process with exit code 3"}
    assert reasons == {name: expected[name] for name in names if name in expected}
    assert all(failure.kind == "crashed" and failure.replaced_by.startswith("good") for failure in failures)
    assert failure_log.failed == {"web": len(failures)} and failure_log.draws == {"web": 4 * len(steps)}
    listed = Quarantine()
    for name in reasons:
        listed.add("web", name, "known", "quarantined")
    known = list(loader(tmp_path, names, num_workers=0, quarantine=listed, stop_step=len(steps)))
    assert contents(steps) == contents(known)
    assert {failure.kind for (batch,) in known for failure in batch.failures} == {"quarantined"}


def test_a_resumed_run_excludes_samples_that_crashed(tmp_path: Path, caplog):
    """fails when every launch of a run crashes again at a recorded sample"""
    path = tmp_path / "failures.jsonl"
    names = [*GOOD[:4], "crash0"]
    whole = list(loader(tmp_path, names, failure_log=FailureLog(path, {"web": 1.0})))
    caplog.clear()
    failure_log = FailureLog(path, {"web": 1.0})
    rest = list(
        loader(tmp_path, names, failure_log=failure_log, start_step=3, num_workers=0)
    )  # here a crash would end pytest
    assert contents(rest) == contents(whole[3:])
    assert failure_log.failed["web"] == sum(len(batch.failures) for (batch,) in whole)
    assert "start again" not in caplog.text


def test_a_decoder_that_never_returns(tmp_path: Path):
    """fails when C code that holds the GIL for ever blocks the run, or is reported as a crash"""
    failure_log = FailureLog(None, {"web": 1.0})
    began = time.monotonic()
    steps = list(
        loader(tmp_path, ["freeze0", *GOOD[:3]], limit_s=1.0, failure_log=failure_log, stop_step=3)
    )  # the good ones too
    assert time.monotonic() - began < 120 and len(steps) == 3
    reasons = {failure.reason for (batch,) in steps for failure in batch.failures}
    assert all(
        reason.startswith("reading it hung inside a decoder; its process was killed after") for reason in reasons
    )
    assert failure_log.failed["web"] == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_has_a_time_limit(tmp_path: Path, workers: int):
    """fails when slow Python code is not interrupted, or a decoder that swallows exceptions swallows the limit"""
    names = ["slow0", "stubborn1", "good2", "good3"]
    (step,) = list(loader(tmp_path, names, limit_s=0.5, num_workers=workers, stop_step=1))
    reasons = {failure.id: failure.reason for failure in step[0].failures}
    assert reasons == dict.fromkeys(names[:2], "reading it took longer than 0.5 s (data.media.time_limit_s)")


def test_restarts_are_bounded(tmp_path: Path):
    """fails when a source of crashing files is tried for ever, or the message does not list them"""
    failure_log = FailureLog(tmp_path / "f.jsonl", {"web": 1.0})
    with (
        pytest.raises(DataError) as caught,
        loader(
            tmp_path, [f"crash{n}" for n in range(9)], failure_log=failure_log, max_restarts=1, num_workers=1
        ) as steps,
    ):
        list(steps)
    text = str(caught.value)
    assert text.startswith("the loader's workers died 2 times") and "SIGSEGV" in text and "data check" in text
    assert text.count("source 'web', sample 'crash") == 2


def test_the_death_of_a_worker_is_raised_only_while_its_result_is_awaited(tmp_path: Path):
    """fails when the death of a worker is raised in the training step, or a worker that was ended on purpose costs a
    sample"""
    whole = contents(list(loader(tmp_path, GOOD, num_workers=0, stop_step=12)))
    with loader(tmp_path, GOOD, stop_step=12) as steps:
        iterator, seen = iter(steps), []
        for number in range(12):
            seen.append(next(iterator))
            if number == 2:
                workers = [child for child in multiprocessing.active_children() if child.is_alive()]
                os.kill(workers[0].pid or 0, signal.SIGTERM)
                time.sleep(0.3)  # the training step: SIGCHLD arrives here
    assert contents(seen) == whole and not any(batch.failures for (batch,) in seen)


def _read_one_step(folder: Path, begun: Any) -> None:
    worker.MP_STATUS_CHECK_INTERVAL = 0.2  # seconds between a worker's looks at whether its run is there
    steps = iter(loader(folder, GOOD, stop_step=100, after_id="x" * 100_000))  # ids that no pipe holds
    next(steps)
    time.sleep(0.5)  # the next ones wait to be read
    begun.set()
    time.sleep(300)


def test_workers_end_with_a_run_that_is_killed(tmp_path: Path):
    """fails when the workers of a run outlive its kill -9"""
    context = multiprocessing.get_context("fork")
    held, holding = os.pipe()  # it ends with the last process that holds it
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
    """A pool of one worker while the worker dies: its connections are gone, the process is not."""

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
    workers = SupervisedWorkers(cast(Any, None), ProgressNotes(1), 60.0)
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
    notes = ProgressNotes(0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    gc.disable()
    try:
        _PressedWhenFreed()
        with pytest.raises(KeyboardInterrupt):
            SupervisedWorkers(DataLoader(cast(Any, range(3))), notes, 60.0)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        gc.enable()
        signal.signal(signal.SIGINT, before)
    assert not notes.path.exists()


def _wait_twice(uncounted_s: float, counted_s: float) -> None:
    with timer_paused():
        time.sleep(uncounted_s)
    time.sleep(counted_s)


def test_the_time_limit():
    """fails when a limit outlives its block, ends a later block, or counts the time of a download"""
    before = signal.getsignal(signal.SIGALRM)
    told: list[bool] = []
    with time_limit(0.4, told.append), timer_paused():
        time.sleep(0.5)
    time.sleep(0.5)
    assert told == [True, False] and signal.getsignal(signal.SIGALRM) is before
    with pytest.raises(MediaError, match="longer than 0.05 s"), time_limit(0.05):
        _wait_twice(0.06, 5)
    with pytest.raises(KeyError), time_limit(0.05):
        raise KeyError


def test_the_quarantine_list(tmp_path: Path, caplog):
    """fails when a listed sample is opened, counts against the budget, or the line of a broken list is not named"""
    path = write_json(tmp_path / "q.jsonl", [
        {"source": "web", "id": "crash0", "reason": "SIGSEGV"}, {"source": "gone", "id": "x", "reason": "old"},
    ])  # fmt: skip
    failure_log = FailureLog(tmp_path / "f.jsonl", {"web": 0.0}, grace=0)
    caplog.set_level(logging.INFO, "chatbridge")
    list(
        loader(tmp_path, ["crash0", "good1"], num_workers=0, quarantine=read_quarantine(path), failure_log=failure_log)
    )
    assert not failure_log.failed and failure_log.counted["quarantined"]["web"] == 12
    assert "1 samples are in quarantine; 1 belong to sources that this run does not have: gone" in caplog.text
    assert "web        24       0           12              0" in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert lines[0]["kind"] == "quarantined" and lines[0]["reason"] == "SIGSEGV"
    path.write_text('{"source": "web", "id": "a"}\n{"source": "web"}\n')
    with pytest.raises(DataError, match=r"q.jsonl, line 2: expected .*data check --quarantine"):
        read_quarantine(path)
    assert len(read_quarantine(None)) == 0
