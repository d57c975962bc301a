"""Decoders that crash, hang or are slow: the sample is named and replaced, everything else is unchanged."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import DataError
from chatbridge.datasets.failure_log import FailureLog
from chatbridge.datasets.quarantine import Quarantine
from tests.helpers.unreliable_decoder import GOOD, contents, loader


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
