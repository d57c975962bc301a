"""torchrun starts the ranks again after one of them died: the run resumes by itself."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.runners.config import RunConfig
from chatbridge.runners.run_folder import LOCK, lock_run_folder, open_run_folder, plan_start
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_run import tiny_runner
from tests.helpers.train_runs import environment, losses, records, run

SCRIPT = Path(__file__).parents[1] / "helpers" / "ranks_faults.py"


def written(folder: Path, stop_at: int = 8) -> Path:
    """The newest checkpoint of a run that was stopped."""
    assert tiny_runner(folder, stop_at=stop_at).train() == 0
    open_run_folder(folder, {}, stop_at)
    return folder / "checkpoints" / f"step_{stop_at:06d}"


def start(folder: Path, resume: Any) -> Path | None:
    return plan_start(RunConfig(output_dir=folder, max_steps=8, resume=resume), {})


def test_a_restart_takes_the_newest_checkpoint_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when `resume: never` ends a restarted run, or a named checkpoint repeats all steps since the start."""
    newest = written(tmp_path / "run")
    older = tmp_path / "run/checkpoints/step_000004"
    elsewhere = written(tmp_path / "other", stop_at=4)
    with pytest.raises(ConfigError, match="is never"):
        start(tmp_path / "run", "never")
    assert start(tmp_path / "run", older) == older
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    for resume in ("auto", "never", older, elsewhere):
        assert start(tmp_path / "run", resume) == newest, resume
    assert start(tmp_path / "run", newest) == newest  # nothing was written since
    assert start(tmp_path / "new", "never") is None and start(tmp_path / "new", older) == older


def test_a_named_checkpoint_may_be_removed_by_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when run.keep removes the checkpoint that run.resume names, and the restart is refused for it."""
    config = RunConfig(output_dir=tmp_path, max_steps=8, resume=tmp_path / "checkpoints/step_000002")
    assert [problem.path for problem in config.problems()] == ["resume"]
    newest = written(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not list(config.problems()) and plan_start(config, {}) == newest


def test_a_restart_waits_for_the_lock_of_the_killed_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when loader workers that outlive a killed rank for a moment end the restarted run."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    held = (tmp_path / LOCK).open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    threading.Timer(0.3, held.close).start()
    begin = time.monotonic()
    lock_run_folder(tmp_path).release()
    assert time.monotonic() - begin > 0.2


def torchrun(config: dict[str, Any], folder: Path, faults: list[Any], *options: str) -> Any:
    """Two ranks with a fault in each start but the last."""
    path = write_yaml(folder / "train.yaml", config)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--max-restarts={len(faults)}"]
    command = [sys.executable, *launcher, str(SCRIPT), json.dumps(faults), "--cfg-path", str(path)]
    command += ["--options", *options] if options else []
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600, cwd=folder)


@pytest.mark.slow
def test_a_run_survives_kills_exceptions_and_hanging_ranks(tmp_path: Path) -> None:
    """Fails when a restarted run cannot connect, repeats or skips a step, is refused by its own lock or its own
    checkpoints, or is stopped by a checkpoint that was being written."""
    world = MiniWorld(tmp_path / "world")
    settings = {"device": "cpu", "max_steps": 6, "save_every": 2, "micro_batch": 2}
    assert run(world.experiment(tmp_path / "whole", **settings, accumulate=2), tmp_path) == 0
    faults = [
        {"rank": 0, "step": 3, "kind": "kill"},
        {"rank": 0, "step": 4, "kind": "kill", "phase": "checkpoint"},
        {"rank": 1, "step": 4, "kind": "memory"},
        {"rank": 1, "step": 5, "kind": "hang", "phase": "forward"},
    ]
    config = world.experiment(tmp_path / "run", **settings)
    done = torchrun(config, tmp_path, faults, "data.num_workers=2", "run.resume=never", "run.stall_timeout_s=10")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "run/run.log").read_text()
    assert "rank 1 ended in forward of step 5: TrainingError: step 5: out of memory in forward on rank 1" in log
    assert "settings that would fit" in done.stderr
    assert "rank 1 has been in forward of step 6 for" in log + done.stderr
    assert "rank 0 ended without a message, last in forward of step 4" in done.stderr
    for ended in (
        "rank 0 ended without a message, last in forward of step 4.",
        "rank 0 ended without a message, last in checkpoint of step 5.",
        "rank 1 ended in forward of step 5: TrainingError: step 5: out of memory in forward on rank 1",
        "no progress for",
    ):
        assert log.count(f"the start before this one: {ended}") == 1, ended
    assert "Connection closed by peer" not in done.stderr, "a bare traceback of gloo"
    assert "thread MainThread" in (tmp_path / "run/stall_rank1.txt").read_text()
    assert "restart 4 by torchrun" in log
    assert [record["step"] for record in records(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)
    assert not list((tmp_path / "run/checkpoints").glob(".*"))
