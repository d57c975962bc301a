"""A run folder belongs to one configuration."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.runners.config import RunConfig
from chatbridge.runners.run_folder import (
    differences,
    is_free,
    lock_run_folder,
    open_run_folder,
    plan_start,
    read_resolved,
)

CONFIG = {"run": {"max_steps": 4, "output_dir": "x"}, "model": {"encoders": {"vision": {"name": "eva_vit"}}}}


def lines(folder, *steps):
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in steps))


@pytest.mark.parametrize(
    ("key", "free"),
    [
        ("run.log_every", True),
        ("evaluation.tasks.qa.batch_size", True),
        ("model.encoders.vision.weights", True),
        ("data.num_workers", True),
        ("run.max_steps", False),
        ("run.seed", False),
        ("data.sources.a.weight", False),
        ("run.log_every_other", False),
        ("run.optimizer.weight_decay", False),
    ],
)
def test_which_settings_may_change(key, free):
    """fails when a setting that affects results may change in a resume, or one that does not may not"""
    assert is_free(key) is free


def test_differences_name_key_and_both_values():
    """fails when an added, removed or changed setting is missed"""
    then = {"a": {"b": 1, "gone": True}, "list": [1, 2]}
    now = {"a": {"b": 2, "new": None}, "list": [1, 2]}
    assert differences(then, now) == ["a.b: 1 -> 2", "a.gone: true -> (not set)", "a.new: (not set) -> null"]


def test_resolved_reads_back_equal(tmp_path):
    """fails when a configuration differs after writing and reading: every resume would be refused"""
    config = {**CONFIG, "odd": {"text": "${x} ???", "empty": {}, "none": None, "float": 1e-05, "list": [1, [2]]}}
    open_run_folder(tmp_path, config, step=0)
    assert differences(read_resolved(tmp_path), config) == []


def test_checkpoints_without_resolved_yaml_are_one_message(tmp_path):
    """fails when a missing resolved.yaml is reported as a change of every setting"""
    (tmp_path / "checkpoints/step_000002").mkdir(parents=True)
    (tmp_path / "checkpoints/step_000002/manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"no resolved\.yaml") as caught:
        plan_start(RunConfig(output_dir=tmp_path, max_steps=4), CONFIG)
    assert "(not set)" not in str(caught.value) and "run.resume=" in str(caught.value)


def test_resuming_drops_lines_after_the_checkpoint(tmp_path):
    """fails when metrics of lost steps stay in the file, or a truncated last line ends the resume"""
    lines(tmp_path, 1, 2, 3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    open_run_folder(tmp_path, CONFIG, step=2)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_resuming_from_an_older_step_moves_later_ones(tmp_path):
    """fails when a run that resumes from step 4 keeps the old step 8, whose name its own checkpoint needs"""
    for step in (4, 8):
        for name in ("checkpoints", "evaluation"):
            (tmp_path / name / f"step_{step:06d}").mkdir(parents=True)
            (tmp_path / name / f"step_{step:06d}" / "manifest.json").write_text("{}")
    open_run_folder(tmp_path, CONFIG, step=8)
    assert not (tmp_path / "previous-1").exists()
    open_run_folder(tmp_path, CONFIG, step=4)
    for name in ("checkpoints", "evaluation"):
        assert [path.name for path in (tmp_path / name).iterdir()] == ["step_000004"]
        assert (tmp_path / "previous-1" / name / "step_000008" / "manifest.json").is_file()


def test_files_of_an_attempt_without_a_checkpoint_are_moved(tmp_path):
    """fails when files of a crashed first attempt are mixed with those of the next, or lost"""
    for _ in range(2):
        open_run_folder(tmp_path, CONFIG, step=0)
        lines(tmp_path, 1)
    open_run_folder(tmp_path, CONFIG, step=0)
    assert not (tmp_path / "metrics.jsonl").exists()
    assert (tmp_path / "previous-1/metrics.jsonl").is_file() and (tmp_path / "previous-2/resolved.yaml").is_file()


def test_a_checkpoint_in_run_resume_must_exist(tmp_path):
    """fails when a wrong path silently starts a new run"""
    run = RunConfig(output_dir=tmp_path, max_steps=4, resume=tmp_path / "step_000001")
    with pytest.raises(ConfigError, match="run.resume"):
        plan_start(run, CONFIG)


def test_a_new_folder_starts_at_step_0(tmp_path):
    """fails when a folder without checkpoints is resumed"""
    assert plan_start(RunConfig(output_dir=tmp_path / "new", max_steps=4), CONFIG) is None


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"schedule": {"warmup_steps": 4}}, "run.schedule.warmup_steps"),
        ({"schedule": {"min_lr": 1.0}}, "run.schedule.min_lr"),
        ({"clip_norm": 0}, "run.clip_norm"),
        ({"resume": "nowhere"}, "run.resume"),
        ({"optimizer": {"betas": [0.9]}}, "run.optimizer.betas"),
        ({"init_from": "nowhere"}, "run.init_from"),
        ({"epochs": 4}, "run.epochs"),
        ({"output_dir": __file__}, "run.output_dir"),
        ({"output_dir": f"{__file__}/runs/x"}, "run.output_dir"),
    ],
)
def test_contradictory_settings_are_reported(settings, path):
    """fails when a run starts with settings that contradict each other or the file system"""
    from chatbridge.config.schema import parse

    with pytest.raises(ConfigError) as error:
        parse(RunConfig, {"output_dir": "x", "max_steps": 4, **settings}, path="run")
    assert path in [problem.path for problem in error.value.problems]


def test_a_folder_whose_lock_file_cannot_be_opened_is_refused(tmp_path: Path):
    """fails when a training goes on without a lock because .lock is a folder, or belongs to somebody else"""
    (tmp_path / ".lock").mkdir()
    with pytest.raises(IsADirectoryError):
        lock_run_folder(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_without(tmp_path: Path, monkeypatch, code: int):
    """fails when no training can run on a file system that has no locks"""

    def no_locks(*_: object) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert not lock_run_folder(tmp_path).is_locked


def test_a_lock_is_released_with_its_process(tmp_path: Path):
    """fails when a killed training locks its folder for as long as a loader worker that it forked lives"""
    code = (
        "import os, sys, time; from pathlib import Path; from chatbridge.runners.run_folder import lock_run_folder\n"
        "lock = lock_run_folder(Path(sys.argv[1]))\n"
        "worker = os.fork()\n"
        "time.sleep(60) if worker == 0 else (print(worker, flush=True), time.sleep(60))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        worker = int(training.stdout.readline())
        try:
            with pytest.raises(ConfigError, match="another process trains in it"):
                lock_run_folder(tmp_path)
            training.kill()
            training.wait()
            assert lock_run_folder(tmp_path).is_locked
        finally:
            os.kill(worker, signal.SIGKILL)
