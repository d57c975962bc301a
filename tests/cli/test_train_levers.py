"""Settings that save memory or time leave the losses of a run as they are."""

from __future__ import annotations

import pytest

from tests.helpers.mini_world import MiniWorld
from tests.helpers.train_runs import losses, run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def test_a_run_resumes_with_other_memory_settings(world: MiniWorld, tmp_path) -> None:
    """Fails when activation checkpointing changes a loss, or a run cannot change it on resume after it ran out of
    memory."""
    assert run(world.experiment(tmp_path / "plain", device="cpu"), tmp_path) == 0
    config = world.experiment(tmp_path / "run", device="cpu")
    assert run(config, tmp_path, "run.stop_at=2") == 0
    config["run"]["activation_checkpointing"] = ["language", "bridges.*"]
    assert run(config, tmp_path) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")
