"""The profile of some steps: its files, its tables, and a training that does not notice."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from chatbridge.common.dist import Dist
from chatbridge.runners.config import ProfileConfig, RunConfig
from chatbridge.runners.profiler import Profiler
from chatbridge.runners.watchers import Watchers
from tests.helpers.tiny_run import tiny_runner


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_profile_names_phases_components_and_operations(tmp_path):
    """fails when a table lacks the backward pass of a component, other steps are in it, or the training changes"""
    runner = tiny_runner(tmp_path / "with")
    profiler = Profiler(ProfileConfig(start=2, steps=2), runner.model, tmp_path / "with", Dist())
    runner.watchers = Watchers([profiler])
    assert runner.train() == tiny_runner(tmp_path / "without").train() == 0
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    text = (tmp_path / "with/profile/steps_3-4.txt").read_text()
    phases, forward, backward, operations = text.split("\n\n")[1:]
    assert {"data", "forward", "backward", "optimizer"} <= set(re.findall(r"%  (\S+)", phases))
    parts = {"encoders.vision", "bridges.image", "bridges.audio", "output", "language"}
    assert parts <= set(re.findall(r"%  (\S+)", forward))
    assert {"output", "bridges.image", "bridges.audio"} <= set(re.findall(r"%  (\S+)", backward))
    assert "encoders.vision" not in backward, "a frozen encoder in front has no backward pass"
    assert "aten::addmm" in operations and text.startswith("milliseconds per step, mean of 2 steps")
    with gzip.open(tmp_path / "with/profile/steps_3-4.trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    starts = [event for event in events if event.get("name") == "phase: optimizer" and event.get("ph") == "X"]
    assert len(starts) == 2
    assert not runner.model.output._forward_hooks and not runner.model.output._forward_pre_hooks


def test_a_run_that_ends_within_its_profile_writes_what_it_has(tmp_path):
    """fails when the profiler of torch stays open after an early end, or another rank writes too"""
    runner = tiny_runner(tmp_path, stop_at=3)
    runner.watchers = Watchers([Profiler(ProfileConfig(start=2, steps=6), runner.model, tmp_path, Dist())])
    assert runner.train() == 0
    assert (tmp_path / "profile/steps_3-8.txt").is_file()
    other = Profiler(ProfileConfig(start=0, steps=1), runner.model, tmp_path / "b", Dist(rank=1, world_size=2))
    other.phase("data", 0)
    assert other.profile is None


def test_a_profile_after_the_last_step_is_refused(tmp_path):
    """fails when a profile is asked for steps that the run never takes, and nobody is told"""
    config = RunConfig(output_dir=tmp_path, max_steps=8, profile=ProfileConfig(start=6, steps=3))
    (problem,) = config.problems()
    assert problem.path == "profile.start" and "ends after step 9, but the run after 8" in problem.message


@pytest.mark.parametrize("steps", [0, 101])
def test_a_trace_has_at_least_one_step(steps):
    """fails when a profile of no step, or of so many that the trace cannot be opened, is accepted"""
    from chatbridge.common.errors import ConfigError
    from chatbridge.config.schema import parse

    with pytest.raises(ConfigError, match="steps"):
        parse(ProfileConfig, {"steps": steps}, path="profile")
