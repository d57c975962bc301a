"""The last lines of a training name what exists, and commands with the real folder."""

from __future__ import annotations

from pathlib import Path

from chatbridge.runners.next_steps import next_steps
from chatbridge.runners.run_folder import SCORES
from tests.helpers.tiny_run import tiny_runner


def lines(folder: Path, outcome: str = "finished", is_early: bool = False, **settings: object) -> dict[str, str]:
    """name -> text of the lines after a run of 8 steps or fewer; the title is ""."""
    runner = tiny_runner(folder, **settings)
    runner.train()
    title, *rest = next_steps(runner.config, outcome, runner.state.step, is_early).splitlines()
    return {"": title} | {line[4:21].strip(): line[22:] for line in rest}


def test_a_finished_run_names_its_commands(tmp_path):
    """fails when a command has another folder, or a best checkpoint is named that does not exist"""
    found = lines(tmp_path / "run")
    assert found[""] == "the run is finished" and "best checkpoint" not in found and "train on" not in found
    assert found["newest checkpoint"] == str(tmp_path / "run/checkpoints/step_000008")
    assert found["report"] == f"chatbridge report {tmp_path / 'run'}"
    assert found["demo"] == f"chatbridge demo --checkpoint {tmp_path / 'run'}"
    assert (
        f" run.init_from={tmp_path / 'run'} run.model_from=checkpoint" in found["evaluate"]
        and not (tmp_path / "run" / SCORES).exists()
    )


def test_a_stopped_and_an_early_run_say_how_to_go_on(tmp_path):
    """fails when the last lines of a run that can go on do not say how, or call it finished"""
    stopped = lines(tmp_path / "stopped", "stopped", stop_at=3)
    assert stopped[""] == "the run has stopped after step 3" and "demo" not in stopped
    assert stopped["train on"] == "the same command with a later run.stop_at, or none"
    early = lines(tmp_path / "early", is_early=True)
    assert early["train on"] == "the same command, with run.patience=null among its --options"
    assert "ended early, after step 8" in early[""]
