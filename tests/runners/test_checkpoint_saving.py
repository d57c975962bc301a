"""Saving a checkpoint: a full disk, leftovers of a killed save, a folder with the name of the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chatbridge.common.errors import TrainingError
from chatbridge.models.checkpoints import read_checked
from chatbridge.runners.config import RunConfig
from chatbridge.runners.run_folder import plan_start
from tests.helpers.small_disk import small_disk
from tests.helpers.tiny_run import tiny_runner


def test_another_folder_with_the_name_of_a_checkpoint_does_not_stop_a_save(tmp_path: Path) -> None:
    """fails when a step folder that is not empty and has no manifest ends every run that reaches this step"""
    place = tmp_path / "checkpoints/step_000004"
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    assert plan_start(RunConfig(output_dir=tmp_path, max_steps=8), {}) is None
    assert tiny_runner(tmp_path).train() == 0
    read_checked(place)
    assert (tmp_path / "checkpoints/step_000004.replaced-1/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("room", [200, 2200])
def test_a_full_disk_during_a_save_is_a_message(tmp_path: Path, room: int) -> None:
    """fails when a save without disk space raises a library's error, leaves a partial checkpoint or removes others"""
    runner = tiny_runner(tmp_path, save_every=2, stop_at=2)
    runner.train()
    before = sorted(path.relative_to(tmp_path) for path in (tmp_path / "checkpoints").rglob("*"))
    runner.model.extra = torch.nn.Parameter(torch.zeros(300))  # of any size
    state = runner.state.__class__(step=3, seed=1, global_batch=8)
    with small_disk(room), pytest.raises(TrainingError) as error:
        runner.checkpointer.save(state)
    reported = str(error.value)
    assert "step_000003 could not be written: File too large" in reported and "Free disk space" in reported
    assert reported.endswith("resumes from " + str(tmp_path / "checkpoints/step_000002"))
    assert sorted(path.relative_to(tmp_path) for path in (tmp_path / "checkpoints").rglob("*")) == before


def test_leftovers_of_a_killed_save_are_removed_before_the_next(tmp_path: Path) -> None:
    """fails when partial checkpoints of killed saves fill the disk, because only a successful save removes them"""
    left = tmp_path / "checkpoints/.writing_step_000001"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    runner = tiny_runner(tmp_path)
    with small_disk(100), pytest.raises(TrainingError):
        runner.checkpointer.save(runner.state)
    assert not left.exists()
